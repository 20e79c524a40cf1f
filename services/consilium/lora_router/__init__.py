"""Adapters: what is stored, what fits, who answers, and where each one lives."""
