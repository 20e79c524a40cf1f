"""Backends of the adapter room."""
