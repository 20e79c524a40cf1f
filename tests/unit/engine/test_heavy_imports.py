"""A long import is not held up by the garbage collector, which goes on afterwards."""

import gc
import sys
from pathlib import Path

import pytest

from consilium.engine import heavy_imports


@pytest.mark.parametrize("collects", [True, False])
def test_nothing_is_collected_meanwhile(
    collects: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_one.py").write_text("import gc\nCOLLECTED = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_one", raising=False)
    try:
        if not collects:
            gc.disable()
        assert not heavy_imports.load("heavy_one").COLLECTED
        assert gc.isenabled() is collects
    finally:
        gc.enable()


def test_what_is_missing_is_told_and_the_collector_goes_on() -> None:
    with pytest.raises(ModuleNotFoundError):
        heavy_imports.load("no_such_module_anywhere")
    assert gc.isenabled()
