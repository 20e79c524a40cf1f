"""Frames: read once, put first, and nothing else is touched."""

import pytest

from consilium.gateway.config import Role
from consilium.gateway.roles import Frame, frame_instructions, frame_messages, frame_prompt, read
from consilium.kernel.errors import ConsiliumError

FRAME = Frame("philosopher", "You are a Stoic.")
USER = {"role": "user", "content": "What is good?"}


def test_frames_are_read_from_text_and_file(tmp_path):
    (tmp_path / "monk.md").write_text("Ты монах.\n\nГовори кратко.\n", encoding="utf-8")
    roles = {
        "stoic": Role(frame=" Be calm. ", executor="hands", fallback="core"),
        "monk": Role(frame_file="monk.md", profile="think"),
        "plain": Role(),
    }
    frames = read(roles, tmp_path)
    assert frames["stoic"] == Frame("stoic", "Be calm.", "auto", "hands", "core")
    assert frames["monk"] == Frame("monk", "Ты монах.\n\nГовори кратко.", "think")
    assert frames["plain"].text == ""
    (tmp_path / "monk.md").unlink()
    assert frames["monk"].text.startswith("Ты")


def test_an_absolute_frame_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_text("A", encoding="utf-8")
    assert (
        read({"a": Role(frame_file=str(tmp_path / "a.txt"))}, tmp_path / "elsewhere")["a"].text
        == "A"
    )


@pytest.mark.parametrize("write", [None, b"\xff\xfe\x00bad"])
def test_a_frame_file_that_cannot_be_read_is_named(tmp_path, write):
    path = tmp_path / "gone.md"
    if write is not None:
        path.write_bytes(write)
    with pytest.raises(ConsiliumError) as caught:
        read({"monk": Role(frame_file="gone.md")}, tmp_path)
    assert caught.value.code == "config_invalid"
    assert str(path) in caught.value.public()
    assert "roles.monk.frame_file" in caught.value.public()


def test_a_frame_comes_first():
    assert frame_messages(FRAME, [USER]) == [
        {"role": "system", "content": "You are a Stoic."},
        USER,
    ]
    assert frame_messages(FRAME, []) == [{"role": "system", "content": "You are a Stoic."}]


@pytest.mark.parametrize("kind", ["system", "developer"])
def test_the_callers_own_system_text_follows_after_a_blank_line(kind):
    framed = frame_messages(FRAME, [{"role": kind, "content": "Answer in Greek."}, USER])
    assert framed == [{"role": "system", "content": "You are a Stoic.\n\nAnswer in Greek."}, USER]


def test_several_system_messages_become_one():
    framed = frame_messages(
        FRAME,
        [
            {"role": "system", "content": "A"},
            {"role": "developer", "content": [{"type": "text", "text": "B"}]},
            USER,
        ],
    )
    assert framed == [{"role": "system", "content": "You are a Stoic.\n\nA\n\nB"}, USER]


def test_parts_of_text_are_joined_and_other_parts_kept():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    text = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert (
        frame_messages(FRAME, [{"role": "system", "content": text}])[0]["content"]
        == "You are a Stoic.\n\none\ntwo"
    )
    mixed = frame_messages(FRAME, [{"role": "system", "content": [*text, image]}])[0]["content"]
    assert mixed == [{"type": "text", "text": "You are a Stoic."}, *text, image]


def test_other_messages_are_the_same_objects_and_the_input_is_not_changed():
    later = {"role": "system", "content": "from now on French"}
    messages = [
        {"role": "system", "content": "A", "name": "ops"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        later,
    ]
    before = [dict(message) for message in messages]
    framed = frame_messages(FRAME, messages)
    assert [id(message) for message in framed[1:]] == [id(message) for message in messages[1:]]
    assert messages == before
    assert framed[0]["name"] == "ops"


def test_an_empty_frame_changes_nothing():
    empty = Frame("plain", "")
    assert frame_messages(empty, [USER]) == [USER]
    assert frame_prompt(empty, [1, 2]) == [1, 2]
    assert frame_instructions(empty, None) is None


def test_prompts():
    assert frame_prompt(FRAME, "Good is") == "You are a Stoic.\n\nGood is"
    assert frame_prompt(FRAME, ["a", "b"]) == ["You are a Stoic.\n\na", "You are a Stoic.\n\nb"]
    for tokens in ([1, 2], [[1], [2]], None):
        with pytest.raises(ConsiliumError) as caught:
            frame_prompt(FRAME, tokens)
        assert caught.value.fields["field"] == "prompt"


def test_instructions():
    assert frame_instructions(FRAME, None) == "You are a Stoic."
    assert frame_instructions(FRAME, "Be brief.") == "You are a Stoic.\n\nBe brief."


def test_odd_system_content_is_refused():
    with pytest.raises(ConsiliumError) as caught:
        frame_messages(FRAME, [{"role": "system", "content": 5}])
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("role", [None, 5, [], {}])
def test_a_role_of_another_type_is_left_to_the_engine(role):
    message = {"role": role, "content": "x"}
    assert frame_messages(FRAME, [message]) == [
        {"role": "system", "content": "You are a Stoic."},
        message,
    ]
