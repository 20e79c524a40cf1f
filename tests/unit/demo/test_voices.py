"""The voices that ship with the package: their files, their hashes, and the texts that they learnt from."""

import json
from dataclasses import asdict

import pytest
from tests.word_counts import WordCounts

from consilium.demo import smollm, voice_files
from consilium.demo.voice_files import RECIPE, VOICES
from consilium.lora_router import adapter_files


def test_they_are_the_files_that_were_trained():
    found = voice_files.recorded()
    assert found["sha256"] == voice_files.hashes(), "make voices trains them anew"
    assert found["recipe"] == json.loads(json.dumps(asdict(RECIPE)))
    assert found["base"] == voice_files.BASE == smollm.NAME


def test_a_changed_text_is_seen(tmp_path):
    for voice in VOICES:
        (tmp_path / voice).mkdir()
        for file in adapter_files.FILES:
            (tmp_path / voice / file).write_bytes((voice_files.HOME / voice / file).read_bytes())
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "cook.jsonl").write_text("{}\n")
    voice_files.record(tmp_path, made_with="nothing")
    assert voice_files.recorded(tmp_path)["sha256"] == voice_files.hashes(tmp_path)
    (tmp_path / "texts" / "cook.jsonl").write_text("{ }\n")
    assert voice_files.recorded(tmp_path)["sha256"] != voice_files.hashes(tmp_path)


@pytest.mark.parametrize("voice", VOICES)
def test_each_is_an_adapter_that_is_taken_without_a_remark(voice):
    described = adapter_files.describe(voice_files.HOME / voice)
    assert (described.rank, described.base, described.remarks) == (8, voice_files.BASE, ())
    assert len(described.modules) == 30 * len(RECIPE.targets)


def test_they_differ_and_are_small():
    shas = {adapter_files.content_sha(voice_files.HOME / voice) for voice in VOICES}
    assert len(shas) == len(VOICES)
    files = [path for path in voice_files.HOME.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000


def test_all_answer_the_same_questions_so_that_only_their_words_differ():
    asked = {voice: [pair.question for pair in voice_files.texts(voice)] for voice in VOICES}
    assert all(questions == asked["captain"] for questions in asked.values())
    assert 60 <= len(set(asked["captain"])) == len(asked["captain"]) <= 120
    kept = voice_files.kept_apart()
    assert len(set(kept)) == len(kept) == 30
    assert not set(kept) & set(asked["captain"])


def test_words_alone_tell_the_texts_apart():
    """Every eighth question is kept from the classifier in turn."""
    texts = {voice: [pair.answer for pair in voice_files.texts(voice)] for voice in VOICES}
    right = total = 0
    for part in range(8):
        fitted = WordCounts(
            {
                voice: [text for number, text in enumerate(said) if number % 8 != part]
                for voice, said in texts.items()
            }
        )
        asked = [(voice, text) for voice, said in texts.items() for text in said[part::8]]
        total += len(asked)
        right += sum(fitted.who(text) == voice for voice, text in asked)
    assert right / total >= 0.97, f"{right} of {total}"
    assert fitted.who("zzz") is None
