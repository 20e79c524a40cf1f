"""How many adapters may be pinned, and what a version that fits fewer engines would lose."""

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import pinning
from consilium.lora_router.fitting import lost
from consilium.lora_router.ports import Placement, Registered

ROWS = [Registered(name, "", Placement.VRAM) for name in "ab"]


def test_one_slot_stays_free_on_every_engine():
    pinning.check("c", ROWS, {"core": 4, "coder": 0})
    with pytest.raises(ConsiliumError, match="coder has 3 slots, 2 adapters are pinned"):
        pinning.check("c", ROWS, {"core": 4, "coder": 3})


def test_one_that_is_pinned_already_is_not_counted_twice():
    pinning.check("b", ROWS, {"core": 3})


def test_what_fits_no_more_is_named_with_its_reason():
    old = {"core": "", "coder": "", "small": "other shapes"}
    new = {"core": "", "coder": "its rank is 32", "small": "other shapes"}
    assert lost(old, new) == {"coder": "its rank is 32"}
