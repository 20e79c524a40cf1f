"""Images: pinned, from one registry where the owner says so, by digest where the owner says so; hooks too."""

import re

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.rendered import pods
from tests.unit.chart.test_graph import CACHED, FULL

DIGEST = "sha256:" + "ab" * 32
PINNED = re.compile(r"^[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$")
GPU = rendered.values_of("1x-rtx-pro-6000")
EVERYWHERE = rendered.merged(rendered.merged(GPU, FULL), CACHED)
"""Every template that names an image, and every image."""


def images(render):
    return [container["image"] for pod in pods(render) for container in pod.containers]


def test_the_case_has_every_image():
    found = {image.rpartition("/")[2].partition(":")[0] for image in images(rendered.render(EVERYWHERE))}  # fmt: skip
    assert found == {"consilium-gpu", "consilium-cpu", "consilium-services", "valkey"}
    kinds = {pod.kind for pod in pods(rendered.render(EVERYWHERE))}
    assert {"test", "prefetch", "head", "worker", "gateway", "redis", "greeter"} <= kinds
    worker = next(pod for pod in pods(rendered.render(EVERYWHERE)) if pod.kind == "worker")
    assert worker.spec["initContainers"]


def test_every_image_is_pinned(every):
    for image in images(every):
        assert PINNED.match(image), image
        assert not image.endswith(":latest")


def test_an_unsaid_tag_is_the_charts_version(default):
    import yaml

    version = yaml.safe_load((rendered.CHART / "Chart.yaml").read_text())["appVersion"]
    ours = [image for image in images(default) if "consilium" in image]
    assert ours
    assert all(image.endswith(f":{version}") for image in ours)


def test_the_charts_version_is_that_of_the_package():
    from importlib.metadata import version

    import yaml

    chart = yaml.safe_load((rendered.CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version("consilium")


@pytest.mark.parametrize("registry", ["registry.lan:5000", "registry.lan/mirror"])
def test_another_registry_reaches_all_of_them(registry):
    before = images(rendered.render(EVERYWHERE))
    after = images(rendered.render(EVERYWHERE | {"global": {"imageRegistry": registry}}))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new == f"{registry}/{old.partition('/')[2]}"


def test_digests_go_before_tags():
    named = {name: {"digest": DIGEST, "tag": "1.2.3"} for name in ("gpu", "cpu", "services", "redis")}  # fmt: skip
    found = images(rendered.render(EVERYWHERE | {"images": named}))
    assert all(image.endswith(f"@{DIGEST}") for image in found)
    assert not [image for image in found if "1.2.3" in image]


def test_tags_are_taken():
    named = {name: {"tag": "1.2.3"} for name in ("gpu", "cpu", "services", "redis")}
    assert all(image.endswith(":1.2.3") for image in images(rendered.render(EVERYWHERE | {"images": named})))  # fmt: skip


def test_policies_and_pull_secrets_reach_every_pod():
    named = {name: {"pullPolicy": "Always"} for name in ("gpu", "cpu", "services", "redis")}
    values = EVERYWHERE | {"images": named, "global": {"imagePullSecrets": ["first", "second"]}}
    for pod in pods(rendered.render(values)):
        assert pod.spec["imagePullSecrets"] == [{"name": "first"}, {"name": "second"}], pod.name
        assert {one["imagePullPolicy"] for one in pod.containers} == {"Always"}


def test_cards_need_the_image_for_cards(every):
    for pod in pods(every):
        first = pod.spec["containers"][0]["image"]
        has_cards = any("/" in name for name in pod.spec["containers"][0]["resources"]["limits"])
        if pod.kind in {"head", "worker", "gateway"}:
            assert ("-gpu" in first) == has_cards, pod.name
