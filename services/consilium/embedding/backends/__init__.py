"""Implementations of the port `Embedder`."""
