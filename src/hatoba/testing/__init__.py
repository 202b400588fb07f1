"""Shipped for tests and benches: contracts of ports, random images. Imported by nothing in hatoba."""
