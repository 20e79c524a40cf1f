"""What tests of this room stand on: a room with replicas that obey, and a folder for a library with files to put into it."""

import pytest
from tests.component.lora_router.house import House
from tests.component.lora_router.shelves import write_adapter


@pytest.fixture
async def house(tmp_path):
    made_house = House(tmp_path)
    yield made_house
    await made_house.close()


@pytest.fixture
def folder(tmp_path):
    return lambda mark: write_adapter(tmp_path / "from" / mark, mark)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "lora_router"
