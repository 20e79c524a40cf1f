"""Dashboards, rules and alerts: files in this package, which Grafana and Prometheus read as they are.

dashboards/*.json and rules/*.yaml. A room adds files of its own to these folders; nothing here lists them. other_metrics.json names the metrics of others that
they may ask for. Knows where the files lie. Does not know what they say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
JOB: Final = "consilium"
"""What every scrape of our pages is called: rules ask for it."""
RULE: Final = "consilium:"
"""Begins the name of each figure that a rule records."""
HOME: Final = "home.json"
"""The dashboard that Grafana opens on."""


def dashboards() -> dict[str, str]:
    """Return name of a file -> JSON of a Grafana dashboard."""
    return _texts("dashboards", "json")


def rules() -> dict[str, str]:
    """Return name of a file -> YAML of Prometheus rules, recorded figures and alerts."""
    return _texts("rules", "yaml")


@dataclass(frozen=True, slots=True)
class Other:
    """A metric that is not in our catalogue.

    owner  who tells it: vllm, ray, kubernetes, prometheus
    kind   gauge, counter or histogram
    """

    name: str
    owner: str
    kind: str


def other_metrics() -> tuple[Other, ...]:
    """Return the metrics of others that dashboards and rules may ask for."""
    told = json.loads((HERE / "other_metrics.json").read_text(encoding="utf-8"))
    return tuple(
        Other(name, owner, kind)
        for owner, kinds in told.items()
        for kind, names in kinds.items()
        if kind != "about"
        for name in names
    )


def _texts(folder: str, ending: str) -> dict[str, str]:
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted((HERE / folder).glob(f"*.{ending}"))
    }
