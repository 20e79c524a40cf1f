"""What `consilium doctor` says of a Kubernetes cluster and of a release in it."""
