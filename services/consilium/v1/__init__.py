"""Generated from protos/consilium/v1 by `make protos`. Never edited."""
