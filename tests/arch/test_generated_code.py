"""services/consilium/v1 is what protos/ says."""

import re

from consilium.kernel import protogen


def test_generated_code_is_fresh():
    assert protogen.stale(protogen.generate()) == [], "run 'make protos' and commit the result"


def test_protos_lie_under_the_path_of_their_package():
    for path in protogen.PROTOS.rglob("*.proto"):
        package = re.search(r"^package ([\w.]+);", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert package is not None
        assert path.parent == protogen.PROTOS.joinpath(*package[1].split("."))
