"""The GPUs of a machine for Prometheus: what they do, what they draw, and for whom."""
