"""Packed bodies: opened whole, in pieces of any size, and never larger in memory than was asked for."""

import gzip
import random
import zlib

import pytest
import zstandard

from consilium.gateway import encodings
from consilium.gateway.encodings import opener
from consilium.kernel.errors import ConsiliumError


def raw_deflate(data):
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
    "zstd": zstandard.compress,
}


def opened(encoding, packed, step=10**9):
    stream = opener(encoding)
    found = []
    for at in range(0, len(packed), step):
        found += stream.feed(packed[at : at + step])
    stream.finish()
    return b"".join(found)


@pytest.mark.parametrize("encoding", PACKERS)
@pytest.mark.parametrize("step", [1, 7, 1000, 10**9])
def test_what_was_packed_comes_out(encoding, step):
    dice = random.Random(step)
    for data in (b"", b"x", b'{"a": 1}' * 50, dice.randbytes(5000), bytes(200_000)):
        packed = PACKERS[encoding](data)
        assert opened(encoding, packed, step) == data


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_several_members_are_one_body(encoding):
    pack = PACKERS[encoding]
    assert opened(encoding, pack(b"one ") + pack(b"two"), 3) == b"one two"
    assert opened("gzip", gzip.compress(b"one") + bytes(100)) == b"one"


@pytest.mark.parametrize("encoding", PACKERS)
def test_what_is_cut_or_damaged_is_the_callers_fault(encoding):
    packed = PACKERS[encoding](b"hello " * 1000)
    for wrong in (b"", packed[:-1], packed[:5], b"\xffnothing of the kind", b'{"a": 1}'):
        with pytest.raises(ConsiliumError) as caught:
            opened(encoding, wrong)
        assert caught.value.code == "invalid_request"
        assert encoding.strip().lower() in caught.value.public()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_bomb_comes_out_in_small_pieces(encoding):
    """64 MiB out of some kB: whoever counts can stop after each piece."""
    stream, largest = opener(encoding), 0
    for piece in stream.feed(PACKERS[encoding](bytes(64 << 20))):
        largest = max(largest, len(piece))
    assert 0 < largest <= (encodings.STEP_BYTES if encoding != "zstd" else 4 << 20)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_very_many_members_are_refused_soon(encoding):
    """A million empty ones would hold everybody up for minutes, and say nothing."""
    empty = PACKERS[encoding](b"")
    with pytest.raises(ConsiliumError, match="members"):
        opened(encoding, empty * 1_000_000)
    assert opened(encoding, empty * 1000) == b""


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_large_body_may_have_many_members(encoding):
    """As bgzip and pzstd write it."""
    block = random.Random(7).randbytes(4096)
    assert opened(encoding, PACKERS[encoding](block) * 3000, 100_000) == block * 3000


def test_a_window_that_would_take_much_memory_is_refused():
    options = zstandard.ZstdCompressionParameters(window_log=27)
    made = zstandard.ZstdCompressor(compression_params=options).compressobj()
    packed = made.compress(b"x" * 1000) + made.flush()
    with pytest.raises(ConsiliumError):
        opened("zstd", packed)


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "gzip,br", "\xff"])
def test_others_are_named(encoding):
    with pytest.raises(ConsiliumError) as caught:
        opener(encoding)
    assert caught.value.code == "encoding_unknown"
    assert repr(encoding) in caught.value.public()
    assert "gzip, deflate, zstd" in caught.value.public()


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_plain_needs_no_opener(encoding):
    assert opener(encoding) is None
