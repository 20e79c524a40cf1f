"""Real servers for tests: one module each, which starts the server on a free port in a folder of its own, and ends it.

Who wants one imports it; what a machine lacks is said by `tools.py`.
"""
