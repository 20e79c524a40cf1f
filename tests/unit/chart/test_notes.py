"""What Helm prints after an install and an upgrade: as it is kept, with commands that exist and names that the release has."""

import argparse
import importlib
import re
import shlex

import pytest
from tests.unit.chart import notes, rendered
from tests.unit.chart.test_graph import FULL

from consilium.cli.app import COMMANDS

CASES = {
    "default": ({}, False),
    "full": (FULL, False),
    "upgrade": (FULL, True),
    "theirs": ({"secrets": {"existingSecret": "mine"}, "models": {"prefetch": {"enabled": False}}}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(notes.kept()))
def test_they_are_as_they_are_kept(name):
    kept = (notes.FOLDER / name).read_text(encoding="utf-8")
    assert notes.kept()[name] == kept, "read it; if it is right: python -m tests.unit.chart.notes"


def test_nothing_else_is_kept():
    assert {file.name for file in notes.FOLDER.iterdir()} == notes.kept().keys()


@pytest.fixture(params=CASES)
def printed(request):
    values, upgrade = CASES[request.param]
    render = rendered.render(values, upgrade=upgrade)
    return render, render.notes


def commands(text, program):
    return [shlex.split(found.partition("|")[0]) for found in re.findall(rf"(?<![-\w]){program} [a-z-].*", text)]  # fmt: skip


def test_commands_of_ours_exist_with_these_words(printed):
    _, text = printed
    found = commands(text, "consilium")
    assert found
    for words in found:
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[words[1]][0]).add(parser.add_subparsers())
        assert parser.parse_args(words[1:])


def test_what_kubectl_is_asked_for_is_in_the_release(printed):
    render, text = printed
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in render.objects}
    there |= {("svc", name) for kind, name in there if kind == "service"} | {("secret", "mine")}
    found = commands(text, "kubectl")
    assert found
    for words in found:
        assert words[1:3] == ["-n", "lab"], words
        said = " ".join(words)
        for kind, name in re.findall(r"\b(job|svc|secret)[ /]([a-z0-9-]+)", said):
            assert (kind, name) in there
        if "rayservices,pods" in said:
            assert said.endswith("-l app.kubernetes.io/instance=home")


def test_an_upgrade_says_what_it_does_not_take_over(printed):
    render, text = printed
    is_upgrade = render is rendered.render(FULL, upgrade=True)
    assert ("is NOT taken over by itself" in text) == is_upgrade
    assert ("kubectl -n lab delete raycluster" in text) == is_upgrade


def test_no_line_is_longer_than_a_terminal_bears(printed):
    _, text = printed
    assert max(map(len, text.splitlines())) <= 180


def test_who_reads_one_disk_from_several_pods_is_told_what_that_means():
    two = rendered.preset(
        "two-boxes", {"models": {"storage": "pvc", "accessMode": "ReadWriteOnce"}}
    )
    assert "all of them must be on that node" in two.notes
    assert "Mind" not in rendered.preset("two-boxes").notes
    assert "Mind" not in rendered.preset("1x3090").notes


def test_who_has_models_in_a_folder_of_the_node_is_told_who_writes_there():
    notes_ = rendered.render({"models": {"storage": "hostPath", "hostPath": "/data/models"}}).notes
    assert "install -d -o 10001 -g 10001 /data/models" in notes_
