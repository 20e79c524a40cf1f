"""Benchmarks. Each prints a ratio against a named peer, both run in one go; none is a timed assertion."""
