"""Bytes by key. Knows where distribution keeps things and how to keep them safely; knows no rule of a registry."""
