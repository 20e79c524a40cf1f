"""What of the kubelet's PodResources service is asked, generated from podresources.proto beside it. Never edited."""
