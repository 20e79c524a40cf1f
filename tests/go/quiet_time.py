"""Ten minutes of a quiet cluster out of a few seconds of it: what Prometheus recorded is gone through again and again, counters going on from where they were.

What a rule asks of is untouched, and so are its limits and its `for`: only the recording is repeated, under a clock of promtool's own.
"""

import json
import re
from dataclasses import dataclass

import yaml

STEP_S = 15
"""As often as pages are read outside of tests."""
SUMS = ("counter", "histogram", "summary")
PARTS = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Recording:
    """What was recorded between two moments.

    rows   `metric`, and `values` as Prometheus tells a range
    types  family -> its type, as Prometheus tells it
    """

    rows: list[dict]
    begin: float
    end: float
    types: dict[str, list[dict]]

    def grows(self, name):
        """Say whether a figure only ever grows."""
        family = next((name.removesuffix(part) for part in PARTS if name.removesuffix(part) in self.types), name)  # fmt: skip
        return any(told["type"] in SUMS for told in self.types.get(family, ()))


def write(file, recording, length_s, alerts, rules):
    """Write a file for `promtool test rules` in which none of these alerts may fire.

    length_s  how long the recording shall last
    """
    minutes = range(int(length_s // 60) + 1)
    whens = [f"{minute}m" for minute in minutes if minute <= 30 or minute % 10 == 0]
    silent = [{"eval_time": when, "alertname": name, "exp_alerts": []} for name in alerts for when in whens]  # fmt: skip
    group = {"interval": f"{STEP_S}s", "start_timestamp": int(recording.begin), "input_series": series(recording, length_s), "alert_rule_test": silent}  # fmt: skip
    told = {"rule_files": [str(rule) for rule in rules], "evaluation_interval": "1m", "tests": [group]}  # fmt: skip
    file.write_text(yaml.dump(told, Dumper=yaml.CSafeDumper, default_flow_style=None, width=1 << 20))  # fmt: skip


def series(recording, length_s):
    """Return what was recorded as promtool's files have it, for so long."""
    steps = int(length_s // STEP_S)
    return [
        {"series": _series(row["metric"]), "values": _values(row, recording, steps)}
        for row in recording.rows
    ]


def longest_wait(rules):
    """Return the seconds of the longest `for` of these rules."""
    return max((_seconds(rule.get("for", "0s")) for rule in rules), default=0)


def _values(row, recording, steps):
    told = [(at - recording.begin, value) for at, value in row["values"]]
    grows = 0.0
    if recording.grows(row["metric"]["__name__"]):
        grows = float(told[-1][1]) - float(told[0][1])
    span = recording.end - recording.begin
    out = []
    for step in range(steps + 1):
        rounds, at = divmod(step * STEP_S, span)
        seen = [value for when, value in told if when <= at] or [told[0][1]]
        out.append(seen[-1] if not grows else repr(float(seen[-1]) + rounds * grows))
    return _short(out)


def _short(values):
    """Write runs of the same value as promtool's file has them."""
    out = []
    for value in values:
        if out and out[-1][0] == value:
            out[-1][1] += 1
        else:
            out.append([value, 0])
    return " ".join(f"{value}x{more}" if more else str(value) for value, more in out)


def _series(labels):
    inside = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items() if name != "__name__")  # fmt: skip
    return f"{labels['__name__']}{{{inside}}}"


def _seconds(written):
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)([smhd])", str(written)))
