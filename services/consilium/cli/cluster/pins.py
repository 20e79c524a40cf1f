"""Versions that the chart and k8s/prerequisites/install.sh were tried with. A test holds the script against them.

Knows numbers. Does not know the cluster.
"""

from __future__ import annotations

from typing import Final

KUBERAY: Final = (1, 6, 2)
KUBERAY_OLDEST: Final = (1, 5, 0)
"""Before it there is no authOptions."""
DEVICE_PLUGIN: Final = "0.17.4"
KUBE_PROMETHEUS_STACK: Final = "79.12.0"
GATEWAY_API: Final = "v1.4.0"
KUBERNETES_OLDEST: Final = (1, 30)
"""kubeVersion of the chart."""
KUBERNETES_TRIED: Final = (1, 35)
"""The control plane that the chart's tests run on."""
DRIVER_MAJOR: Final = 580
"""The engine's build is made for CUDA 13 (NVIDIA, CUDA compatibility)."""
