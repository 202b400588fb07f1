"""hatoba: a self-hosted OCI / Docker container registry.

Importing it does nothing; `hatoba.cli` is the way in, `hatoba.wiring` puts the parts together.
"""
