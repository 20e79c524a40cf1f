"""The planner: what fits, how fast, what it costs, what may be changed. Pure functions over data with sources; no engine, no network."""
