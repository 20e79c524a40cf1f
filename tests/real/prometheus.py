"""A real Prometheus as a process of a test, and what it is asked: how it reads an expression, what an expression gives, how its rules and targets do."""

import json
import math
import subprocess
from dataclasses import dataclass
from datetime import datetime

import httpx
import yaml

from consilium.kernel.ports import free_port
from tests.real.server import Server
from tests.real.tools import tool

ASKS_S = 240.0
CHECKS_S = 600.0


@dataclass(frozen=True)
class Selector:
    """One metric that an expression takes, with the labels by which it chooses among its series.

    matchers  (label, operator, value)
    """

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def __str__(self):
        inside = ",".join(f"{label}{how}{json.dumps(value)}" for label, how, value in self.matchers)
        return f"{self.metric}{{{inside}}}" if inside else self.metric


class Prometheus(Server):
    """One server with a configuration of its own.

    config   the file's content; paths in it are absolute
    """

    name = "prometheus"

    def __init__(self, folder, config):
        super().__init__(folder)
        self.port = free_port()
        self.config = config
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=ASKS_S)

    def words(self):
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(self.config), encoding="utf-8")
        return [
            tool("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ]

    def reload(self, config):
        """Give it another configuration while it runs."""
        self.config = config
        self.words()
        answer = self._client.post("/-/reload")
        assert answer.status_code == 200, answer.text

    def answers(self):
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path, **words):
        """Return the data of an answer. An expression that it does not understand fails the test with its words."""
        answer = self._client.post(f"/api/v1/{path}", data=words).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {words}"
        return answer["data"]

    def stop(self):
        """Ask it to end, and see to it that it does."""
        self._client.close()
        super().stop()

    def get(self, path, **words):
        """The same, for what it answers to GET alone."""
        answer = self._client.get(f"/api/v1/{path}", params=words).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {words}"
        return answer["data"]

    def query(self, expression, at=None):
        """Return what an expression gives at one moment: rows with `metric` and `value`, or with `values` for a range."""
        found = self.ask("query", query=expression, **({} if at is None else {"time": at}))
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return found["result"]

    def labels_over(self, expression, begin, end, step=3.0):
        """Return the labels of each series that an expression gives over a time; one that is never a number is no answer."""
        found = self.ask("query_range", query=expression, start=begin, end=end, step=step)
        return [
            row["metric"]
            for row in found["result"]
            if any(not math.isnan(float(value)) for _, value in row["values"])
        ]

    def selectors(self, expression):
        """Return what an expression takes, as Prometheus itself reads it."""
        return list(dict.fromkeys(_selectors(self.ask("parse_query", query=expression))))

    def rules(self):
        """Return every rule with its state, as it stands now."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def has_read(self, since):
        """Say whether every page was read whole since a time."""
        found = self.get("targets")["activeTargets"]
        return all(one["health"] == "up" and _time(one["lastScrape"]) > since for one in found)

    def has_reckoned(self, since):
        """Say whether every group of rules was reckoned since a time."""
        return all(_time(group["lastEvaluation"]) > since for group in self.get("rules")["groups"])

    def targets(self):
        """Return job -> whether all of its pages can be read."""
        found = {}
        for target in self.get("targets")["activeTargets"]:
            job = target["labels"]["job"]
            found[job] = found.get(job, True) and target["health"] == "up"
        return found


def promtool(*words, said=None, cwd=None):
    """Run promtool and return (exit code, what it said).

    said  what it reads
    """
    done = subprocess.run(
        [tool("promtool"), *map(str, words)],
        input=said,
        capture_output=True,
        text=True,
        timeout=CHECKS_S,
        check=False,
        cwd=cwd,
    )
    return done.returncode, done.stdout + done.stderr


def _time(written):
    """Return a time of Prometheus' as time.time() has it."""
    return datetime.fromisoformat(written).timestamp()


def _selectors(node):
    if isinstance(node, list):
        for one in node:
            yield from _selectors(one)
    if not isinstance(node, dict):
        return
    if node.get("type") in ("vectorSelector", "matrixSelector"):
        named = [(m["name"], m["type"], m["value"]) for m in node["matchers"]]
        metric = node["name"] or next((v for n, t, v in named if (n, t) == ("__name__", "=")), "")
        yield Selector(metric, tuple(one for one in named if one[0] != "__name__"))
        return
    for value in node.values():
        yield from _selectors(value)
