"""services/consilium/v1 is what protos/ says."""

import re

from tests.arch.source import PACKAGE, REPOSITORY

from consilium.kernel import protogen


def test_generated_code_is_fresh():
    assert protogen.stale(protogen.generate()) == [], "run 'make protos' and commit the result"


def test_protos_lie_under_the_path_of_their_package():
    for path in protogen.PROTOS.rglob("*.proto"):
        package = re.search(r"^package ([\w.]+);", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert package is not None
        assert path.parent == protogen.PROTOS.joinpath(*package[1].split("."))


def test_the_generated_code_of_the_room_in_the_tests_is_fresh():
    made = protogen.generate(REPOSITORY, "tests/greeter")
    stale = protogen.stale(made, REPOSITORY / "tests" / "greeter")
    assert stale == [], "run 'python -m consilium.kernel.protogen --root . --package tests/greeter'"


def test_the_generated_code_of_the_kubelets_service_is_fresh():
    package = "consilium/gpu_metrics/backends/kubelet_api"
    made = protogen.generate(PACKAGE.parent, package)
    stale = protogen.stale(made, PACKAGE.parent / package)
    assert stale == [], (
        f"run 'python -m consilium.kernel.protogen --root services --package {package}'"
    )
