"""Ray Serve deployments around vLLM: from the topology in the configuration to engines that answer."""
