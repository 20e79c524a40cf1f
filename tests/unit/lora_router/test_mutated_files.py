"""Whatever is done to the bytes of an adapter: it is taken, or refused by a rule; nothing else is ever raised, and no hash is that of another content."""

import json
import random

import pytest
from tests.unit.lora_router import made

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, patterns

ROUNDS = 120
ODD = (None, True, -1, 0, 1.5, 1 << 70, "", "x", "\x00", [], {}, [[]], {"a": {}}, "8", [None])


def flipped(raw, rng):
    found = bytearray(raw)
    for _ in range(rng.choice([1, 1, 3])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(raw, rng):
    return raw[: rng.randrange(len(raw))]


def doubled(raw, rng):
    at = rng.randrange(len(raw))
    return raw[:at] + raw[max(0, at - 7) :]


def in_header(raw, rng):
    """Flip a byte of the header alone: that is where structure is."""
    length = int.from_bytes(raw[:8], "little")
    return raw[:8] + flipped(raw[8 : 8 + length], rng) + raw[8 + length :]


@pytest.mark.parametrize("change", [flipped, cut, doubled, in_header], ids=lambda c: c.__name__)
def test_changed_tensor_files_are_taken_or_refused(tmp_path, change):
    rng = random.Random(change.__name__)
    header, body = made.header_and_body(made.factors(made.modules(layers=1)), "BF16")
    del header["__metadata__"]  # it has no meaning, and so no part in the hash
    raw = made.joined(header, body)
    good = adapter_files.describe(made.write(tmp_path / "good", raw=raw)).sha
    found = [result(made.write(tmp_path / str(n), raw=change(raw, rng))) for n in range(ROUNDS)]
    assert good not in found
    assert "adapter_refused" in found or change is flipped


def result(folder):
    """Return the hash, or the code of the error."""
    try:
        return adapter_files.describe(folder).sha
    except ConsiliumError as err:
        return err.code if err.fields["way"] else "no way out"


def test_changed_configurations_are_taken_or_refused(tmp_path):
    rng = random.Random(5)
    raw = made.joined(*made.header_and_body(made.factors(made.modules(layers=1))))
    keys = list(made.config())
    found = set()
    for number in range(2 * ROUNDS):
        config = made.config()
        for key in rng.sample(keys, rng.choice([1, 1, 2])):
            config[key] = rng.choice(ODD)
        told = json.dumps(config).encode()
        if number % 4 == 0:
            told = flipped(told, rng)
        found.add(result(made.write(tmp_path / str(number), raw=raw, told=told)))
    assert "adapter_refused" in found
    assert all(len(each) == 64 or each == "adapter_refused" for each in found)


def test_no_safe_pattern_is_slow():
    """The worst that is taken, on the longest name that is taken."""
    import time

    name = "a" * 100 + "." + "1" * 6 + ".b" * 40
    for key in (
        ".*bc",
        r"\w+b.bc",
        r"(b|b.)(b|b.).*c",
        r"\d+\d+\d+\d+.bc",
        ".*x",
        r"\w+x",
        r"\d+\d+\d+\d+x",
        "[a-z]*y(a|b)(a|b)z",
        "." * 200,
    ):
        assert not patterns.unsafe(key), key
        begun = time.process_time()
        for _ in range(20):
            assert patterns.first_match([key], name) is None
        assert (time.process_time() - begun) / 20 < 0.005, key
