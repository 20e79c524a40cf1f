"""`consilium doctor --cluster` over a socket: an HTTP server that answers as an API server does, with the box of the unit tests behind it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from tests.component.cli.test_doctor_release import Handler, start
from tests.unit.cli.cluster.test_install_findings import BOX

from consilium.cli.app import main
from consilium.cli.cluster.inventory import LISTS

PRESETS = Path(__file__).resolve().parents[3] / "helm" / "consilium" / "presets"
GROUPS = {
    "/apis": {"groups": [{"name": "ray.io", "versions": [{"groupVersion": "ray.io/v1"}]}]},
    "/apis/ray.io/v1": {"resources": [{"name": "rayservices", "kind": "RayService"}, {"name": "rayservices/status", "kind": "RayService"}]},
    "/version": {"gitVersion": BOX.version},
}  # fmt: skip


class ClusterHandler(Handler):
    """Answers for a whole cluster."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path in GROUPS:
            return self.say(200, GROUPS[path])
        kind = next((k for k, where in LISTS.items() if where.format(space="llm") == path), None)
        if kind is None or kind in self.server.hidden:
            return self.say(403 if kind else 404, {"message": f"{path} is not for you"})
        return self.say(200, {"items": list(getattr(BOX, kind)), "metadata": {}})


@pytest.fixture
def look(tmp_path, monkeypatch, capsys):
    servers = []

    def run(*words, hidden=()):
        server, config = start(ClusterHandler, tmp_path)
        server.hidden = hidden
        servers.append(server)
        monkeypatch.setenv("KUBECONFIG", str(config))
        code = main(["doctor", "--cluster", "-n", "llm", *words])
        return code, capsys.readouterr().out

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_list_of_the_inventory_is_asked_for():
    asked = {one.name for one in fields(BOX)} - {"namespace", "version", "kinds", "unread"}
    assert asked == LISTS.keys()


def test_a_box_with_a_card_takes_the_preset_that_is_made_for_it(look):
    files = [str(PRESETS / f"{name}.yaml") for name in ("1x3090", "k3s")]
    code, said = look("-f", files[0], "-f", files[1])
    assert code == 0, said
    assert "KubeRay operator: kuberay-system/kuberay-operator v1.6.2" in said
    assert "1 free (box 1 RTX-PRO-6000), 1 asked for" in said


def test_and_not_the_one_for_eight(look):
    code, said = look("-f", str(PRESETS / "8x-rtx-pro-6000.yaml"), "--output", "json")
    assert code == 3
    found = {one["id"]: one for one in json.loads(said)["findings"]}
    assert "the values ask for 8" in found["cards_free"]["sentence"]
    assert found["places"]["level"] == "failure"


def test_nodes_that_may_not_be_read_are_told(look):
    code, said = look("--output", "json", hidden=("nodes",))
    assert code == 0
    found = {one["id"]: one for one in json.loads(said)["findings"]}
    assert "403" in found["unread_nodes"]["sentence"]
    assert "places" not in found
