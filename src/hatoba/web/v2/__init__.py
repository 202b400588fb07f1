"""The distribution protocol at /v2/: one row a route in `routes`, one file a noun."""
