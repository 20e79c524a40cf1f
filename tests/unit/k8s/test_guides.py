"""The commands of k8s/README.md: ours are parsed, Helm's and kubectl's name what the chart makes, files are there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from tests.unit.chart import rendered

from consilium.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
IMAGES_GUIDE = (ROOT / "k8s" / "images" / "README.md").read_text(encoding="utf-8")
SHELL = (ROOT / "k8s" / "claim-shell.yaml").read_text(encoding="utf-8")
FLAGS = {"-n", "-f", "--create-namespace", "-o"}


def lines():
    """Yield each line of the blocks of commands, without what `&&` and `|` join to it and without its remark."""
    for line in GUIDE.splitlines():
        if line.startswith("    "):
            text = re.sub(r"\$\(.*\)", "KEY", re.sub(r"\s{2,}# .*", "", line.strip()))
            yield from (part.strip() for part in re.split(r"&&|\||; do|; done|&$", text))


def commands(program):
    inline = re.findall(rf"`({program} [^`]+)`", GUIDE)
    found = [*inline, *(line for line in lines() if line.startswith(f"{program} "))]
    return [shlex.split(text) for text in found]


def test_commands_of_ours_exist_with_these_words():
    found = commands("consilium")
    assert len(found) > 5
    for words in found:
        if words[1:] == ["doctor", "--release"]:
            continue  # named in a table
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[words[1]][0]).add(parser.add_subparsers())
        assert parser.parse_args(words[1:])


def test_files_that_commands_name_are_there():
    found = set(re.findall(r"(?<![\w/:.])\.?/?((?:helm|k8s|tests)/[\w./-]+[\w/])", GUIDE))
    assert len(found) > 8
    for name in found:
        assert (ROOT / name).exists(), name
    for name in re.findall(r"presets/([\w-]+\.yaml)", GUIDE):
        assert (ROOT / "helm" / "consilium" / "presets" / name).is_file(), name


def test_helm_is_called_with_the_chart_and_flags_that_it_has():
    found = commands("helm")
    assert {words[1] for words in found} >= {"install", "upgrade", "rollback", "uninstall", "get", "history"}  # fmt: skip
    for words in found:
        if words[1] in ("install", "upgrade"):
            assert words[2:4] == ["consilium", "helm/consilium"]
        assert {word for word in words if word.startswith("-")} <= FLAGS
        if "-n" in words:
            assert words[words.index("-n") + 1] == "llm"


def test_the_values_of_the_first_box_are_a_preset_that_is_tried():
    line = next(line for line in lines() if line.startswith("helm install consilium"))
    assert re.findall(r"-f helm/consilium/presets/(\S+)\.yaml", line) == ["1x3090", "k3s"]
    assert rendered.preset("k3s").objects


def test_kubectl_names_what_the_chart_makes():
    render = rendered.render()
    made = {(one["kind"].lower(), one["metadata"]["name"].replace("home-consilium", "consilium")) for one in render.objects}  # fmt: skip
    made |= {("rayservice", "consilium"), ("svc", "consilium"), ("pod", "claim-shell")}
    found = commands("kubectl")
    assert len(found) > 10
    for words in found:
        said = " ".join(words)
        for kind, name in re.findall(r"\b(secret|svc|rayservice|statefulset|deployment|pod)[ /](consilium[a-z0-9-]*|claim-shell)", said):  # fmt: skip
            assert (kind, name) in made, said
    claims = set(re.findall(r"s/CLAIM/([\w-]+)/", GUIDE))
    assert claims == {"consilium-models", "data-consilium-redis-0", "consilium-lora-router"}


def test_nothing_is_copied_before_the_pod_that_writes_it_is_gone():
    """After each scaling down the next command waits for exactly the pods of what was scaled, for longer than they may take to end."""
    pods = rendered.pods(rendered.render(release="consilium"))
    found = list(lines())
    stopped = [place for place, line in enumerate(found) if line.endswith("--replicas=0")]
    assert len(stopped) == 3
    for place in stopped:
        kind, name = re.search(r"scale (\w+) ([\w-]+)", found[place]).groups()
        told = re.fullmatch(r"kubectl -n llm wait --for=delete pod -l (\S+) --timeout=(\d+)s", found[place + 1])  # fmt: skip
        assert told, found[place + 1]
        wanted = dict(pair.split("=") for pair in told[1].split(","))
        meant = [one for one in pods if wanted.items() <= one.labels.items()]
        assert [one.owner.lower() for one in meant] == [f"{kind}/{name}"]
        assert int(told[2]) > meant[0].spec["terminationGracePeriodSeconds"]


def named_images(guide, registry):
    """Return the images of a registry that commands of a guide build or copy, `$target` and `$image` filled in."""
    found = set(re.findall(rf"-t ({re.escape(registry)}/\S+:[\w.-]+)", guide))
    return {re.sub(r"\$(target|image)", name, text) for text in found for name in ("services", "cpu", "gpu")}  # fmt: skip


def asked_for(values):
    render = rendered.preset("1x3090", values)
    return {one["image"] for pod in rendered.pods(render) for one in pod.containers}


def test_images_are_pushed_by_the_names_that_the_chart_asks_for():
    registry = "registry.example"
    assert f"--set global.imageRegistry={registry}" in IMAGES_GUIDE
    asked = asked_for({"global": {"imageRegistry": registry}})
    assert asked == named_images(IMAGES_GUIDE, registry)


@pytest.mark.parametrize("guide", [GUIDE, IMAGES_GUIDE], ids=["guide", "images"])
def test_images_are_imported_by_the_names_that_the_chart_asks_for(guide):
    ours = {image for image in asked_for({}) if "valkey" not in image}
    assert ours == named_images(guide, "ghcr.io")
    assert "save ghcr.io/consilium/consilium-$" in guide


def test_nothing_goes_on_before_what_it_waits_for():
    for line in GUIDE.splitlines():
        assert not ("&&" in line and line.endswith("&")), "the whole line goes into the background"


@pytest.mark.parametrize("guide", [GUIDE, SHELL], ids=["guide", "pod"])
def test_the_pod_that_holds_a_claim_asks_the_registry_that_the_chart_asks(guide):
    (old, new) = re.search(r"s/CLAIM/[\w-]+/; s\|([^|]+)\|([^|]+)\|'", guide).groups()
    image = yaml.safe_load(SHELL)["spec"]["containers"][0]["image"]
    assert image in asked_for({})
    registry = {"global": {"imageRegistry": new.removesuffix("/")}}
    assert image.replace(old, new) in asked_for(registry)


@pytest.mark.parametrize("version", ["1.30", "1.35"])
def test_the_pod_that_holds_a_claim_is_one(version):
    pod = yaml.safe_load(SHELL.replace("CLAIM", "c"))
    kubernetes_validate.validate(pod, version, strict=True)
