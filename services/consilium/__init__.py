"""Consilium: a self-hosted Qwen cluster of small services. See README.md at the top of the repository."""

__version__ = "0.1.0"
