"""Every page of figures before promtool: it can be read, and nothing on it is named or typed otherwise than Prometheus' users expect."""

import json
import re

import httpx
import pytest
from tests.real import nvml
from tests.real.gpu_exporter import GpuExporter
from tests.real.prometheus import promtool

from consilium.cli.metrics import catalogue

CARDS = ("3090", "4090,count=2,lost", "pro6000,throttled,xid", "a100mig", "4090,nan,wrapped")
THEIRS = re.compile(r"(vllm:|ray_|haproxy_|process_|python_|target_info)")
"""Names of figures that others made: what promtool says of these is theirs to mend."""
LINT = 3


def complaints(page):
    """Return what promtool says of the figures that are ours. A page that it cannot read fails the test."""
    assert page.strip()
    code, said = promtool("check", "metrics", said=page)
    assert code in (0, LINT), said
    return [line for line in said.splitlines() if line.strip() and not THEIRS.match(line)]


def test_every_figure_of_the_catalogue():
    """Those too that a page only has after a fault, or in Kubernetes."""
    lines = []
    for row in catalogue():
        name = row["name"]
        labels = ",".join(f'{label}="x"' for label in row["labels"])
        lines += [f"# HELP {name} {row['help']}", f"# TYPE {name} {row['type']}"]
        if row["type"] == "histogram":
            lines.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="+Inf"}} 1')
            lines += [f"{name}_sum{{{labels}}} 1", f"{name}_count{{{labels}}} 1"]
        else:
            lines.append(f"{name}{{{labels}}} 1")
    assert complaints("\n".join(lines) + "\n") == []


@pytest.mark.parametrize("cards", CARDS)
def test_the_page_of_the_cards(cards, tmp_path):
    library = nvml.build(tmp_path / "driver")
    with GpuExporter(tmp_path / "exporter", library, cards) as exporter:
        assert complaints(exporter.page()) == []


def test_the_page_of_cards_of_an_old_driver(tmp_path):
    library = nvml.build(tmp_path / "driver", old=True)
    with GpuExporter(tmp_path / "exporter", library, "4090") as exporter:
        assert complaints(exporter.page()) == []


@pytest.mark.e2e
def test_every_page_of_a_cluster(cluster):
    known = json.loads((cluster.state / "cluster.json").read_text())
    services = json.loads((cluster.state / "config.json").read_text())["services"]
    pages = {room: places["metrics"] for room, places in services.items() if places.get("metrics")}
    pages = {room: f"{url.rstrip('/')}/metrics" for room, url in pages.items()}
    pages["ray"] = f"http://127.0.0.1:{known['ports']['ray_metrics']}/metrics"
    pages["haproxy"] = f"http://127.0.0.1:{known['ports']['haproxy_metrics']}/metrics"
    pages["joined"] = known["addresses"]["metrics"]
    pages["gateway"] = f"{cluster.url}/v1/metrics"
    for name, url in pages.items():
        key = {"Authorization": f"Bearer {cluster.key}"} if name == "gateway" else {}
        answer = httpx.get(url, headers=key, timeout=120)
        assert answer.status_code == 200, name
        assert complaints(answer.text) == [], name
