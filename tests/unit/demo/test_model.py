import pytest

from consilium.demo import model, smollm, tiny
from consilium.demo.model import resolve
from consilium.kernel.errors import ConsiliumError


@pytest.mark.parametrize(
    ("name", "served"),
    [("tiny", "tiny-qwen3"), ("tiny-moe", "tiny-qwen3-moe"), ("tiny-base", "tiny-qwen3-base")],
)
def test_tiny_models_are_made(tmp_path, name, served):
    steps = []
    found = resolve(name, tmp_path, steps.append)
    assert (found.kind, found.name, found.path) == (name, served, tmp_path / name)
    assert "nonsense" in found.note
    assert steps[-1].done == steps[-1].total
    assert resolve(name, tmp_path) == found
    assert len(found.revision) == 12


def test_a_local_folder_is_checked_and_named_after_itself(tmp_path, monkeypatch):
    made = tiny.make(tmp_path / "My-Qwen")
    found = resolve(str(made), tmp_path)
    assert (found.kind, found.name, found.path) == ("local", "My-Qwen", made)
    monkeypatch.chdir(tmp_path)
    assert resolve("My-Qwen", tmp_path / "models").path == made
    assert resolve("./My-Qwen", tmp_path / "models").path == made
    (made / "config.json").unlink()
    with pytest.raises(ConsiliumError, match="there is no config"):
        resolve(str(made), tmp_path)


def test_without_the_wheel_the_demo_is_the_tiny_model_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm, "find_spec", lambda _: None)
    found = resolve("demo", tmp_path)
    assert found.kind == "tiny"
    assert "in place of the demo model" in found.note
    assert "make setup" in found.note


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deno", "did you mean 'demo'?"),
        ("tiny-mo", "did you mean 'tiny-moe'?"),
        ("qwen", "a hub name has the form org/name"),
        ("", "a hub name has the form org/name"),
        ("a/b/c", "no such folder"),
        ("/nowhere/model", "/nowhere/model: there is no such folder"),
        ("~nobody-here/x", "there is no such folder"),
    ],
)
def test_unknown_names_say_what_would_work(tmp_path, name, says):
    with pytest.raises(ConsiliumError) as caught:
        resolve(name, tmp_path)
    assert caught.value.code == "model_missing"
    assert caught.value.row.exit_code == 68
    assert says in caught.value.public()


def test_parameter_counts_in_the_notes_are_true(tmp_path):
    import math

    from consilium.demo.weights import check_file

    for kind, said in (
        ("tiny", "1.4 million"),
        ("tiny-base", "1.4 million"),
        ("tiny-moe", "2 million"),
    ):
        made = tiny.make(tmp_path / kind, kind)
        count = sum(math.prod(shape) for shape in check_file(made / "model.safetensors").values())
        assert f"{round(count / 1e6, 1):g} million" == said
        assert said in model.resolve(kind, tmp_path).note
