"""The rules of a registry: what push, pull, mount, delete and list mean. Knows no HTTP, no SQL and no disk."""
