"""The `consilium` command: one file per command, and the supervisor behind `up`."""
