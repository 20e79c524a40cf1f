"""The trainer of the voices, on the tiny model: what it writes is an adapter, and the same recipe writes the same bytes."""

from dataclasses import replace

import pytest

from consilium.demo import tiny, voice_files
from consilium.demo.voice_files import RECIPE
from consilium.lora_router import adapter_files

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # torch and Transformers warn of themselves
]
SHORT = replace(RECIPE, epochs=2, batch=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of three trainings: twice the same recipe, and another seed."""
    from rich.progress import Progress

    from consilium.demo.backends import train_voices

    folder = tmp_path_factory.mktemp("trained")
    model = tiny.make(folder / "tiny")
    losses, folders = {}, {}
    for name, recipe in {"one": SHORT, "same": SHORT, "other": replace(SHORT, seed=1)}.items():
        with Progress(disable=True) as bar:
            added = train_voices.train(model, voice_files.texts("cook")[:16], recipe, bar, name)
            losses[name] = bar.tasks[0].fields["loss"]
        train_voices.write(folder / name, added, recipe)
        folders[name] = folder / name
    return folders, losses


def test_it_writes_an_adapter_that_is_taken(trained):
    folders, losses = trained
    described = adapter_files.describe(folders["one"])
    assert (described.rank, len(described.modules)) == (8, tiny.LAYERS * len(RECIPE.targets))
    assert losses["one"].startswith("loss ")


def test_the_same_recipe_writes_the_same_bytes_and_another_seed_others(trained):
    folders, _ = trained
    one, same, other = (folders[name] / voice_files.TENSORS for name in ("one", "same", "other"))
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
