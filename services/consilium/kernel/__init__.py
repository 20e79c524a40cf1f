"""What every service stands on: errors, configuration, gRPC, logs, metrics, process life cycle."""
