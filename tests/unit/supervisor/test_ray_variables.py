"""What the chart's pods are told is what the code says."""

from pathlib import Path

from consilium.supervisor import ray_variables
from consilium.supervisor.commands import cluster_environment

CHART = Path(__file__).resolve().parents[3] / "helm" / "consilium"


def test_the_chart_has_the_variables_that_the_code_names():
    written = (CHART / "files" / "serve.env").read_text()
    assert written == ray_variables.lines(), (
        "python -m consilium.supervisor.ray_variables > helm/consilium/files/serve.env"
    )


def test_one_machine_is_told_the_same(tmp_path):
    ports = dict.fromkeys(
        ("ray", "haproxy_stats", "haproxy_metrics", "serve_fallback_http", "serve_fallback_grpc",
         "serve_ingress_http", "serve_ingress_grpc"), 1,
    )  # fmt: skip
    told = cluster_environment(
        ports=ports, temp=tmp_path, sockets=tmp_path, token="t", mark="m", metrics=tmp_path
    )
    assert ray_variables.EVERYWHERE.items() <= told.items()
    assert set(ray_variables.POD) - {"HOME"} <= told.keys() | {"RAY_SERVE_HAPROXY_BINARY_PATH"}
