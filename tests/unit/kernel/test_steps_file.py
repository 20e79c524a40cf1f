"""The file that says how long a step of each engine takes."""

from dataclasses import dataclass, field

from consilium.kernel import steps_file


@dataclass
class Spec:
    name: str
    step_s: float
    launch_args: dict[str, object] = field(default_factory=lambda: {"max_num_batched_tokens": 128})


def test_what_was_written_is_read_and_an_engine_on_a_card_is_not_in_it(tmp_path):
    steps_file.write(tmp_path, [Spec("core", 0.5), Spec("card", 0.0)])
    assert steps_file.read(tmp_path) == {"core": steps_file.StepTold(128, 0.5)}


def test_no_file_or_a_damaged_one_says_nothing(tmp_path):
    assert steps_file.read(tmp_path) == {}
    for damaged in ("", "[]", '{"core": {"tokens": "x"}}', '{"core": 7}'):
        (tmp_path / steps_file.NAME).write_text(damaged)
        assert steps_file.read(tmp_path) == {}
