"""Forms part by part, however the network cuts them."""

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.multipart import LONGEST_HEADERS, MOST_PARTS, Multipart


def form(fields=None, files=None):
    """The form as the SDKs' own client writes it."""
    request = httpx.Request("POST", "http://x", data=fields, files=files or {"f": ("a", b"")})
    return request.headers["content-type"].encode(), request.read()


def opened(media, body, cuts=(), *, gone=False):
    ends = [*sorted({cut for cut in cuts if cut < len(body)}), len(body)]
    pieces = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    messages = [
        {"type": "http.request", "body": piece, "more_body": gone or number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    if gone:
        messages.append({"type": "http.disconnect"})

    async def receive():
        return messages.pop(0)

    return Multipart({"headers": [(b"content-type", media)]}, receive)


async def read(multipart):
    found = []
    async for part in multipart:
        whole, more = b"", True
        while more:
            message = await part.receive()
            whole += message.get("body", b"")
            more = message.get("more_body", False)
        found.append((part.name, part.filename, whole))
    return found


@given(st.binary(max_size=400), st.lists(st.integers(0, 700), max_size=20))
@settings(max_examples=200, deadline=None)
async def test_a_form_is_read_however_it_is_cut(content, cuts):
    media, body = form({"purpose": "batch"}, {"file": ("tasks.jsonl", content)})
    assert await read(opened(media, body, cuts)) == [
        ("purpose", None, b"batch"),
        ("file", "tasks.jsonl", content),
    ]


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
async def test_noise_is_refused_with_a_sentence(noise):
    with pytest.raises(ConsiliumError) as caught:
        await read(opened(b"multipart/form-data; boundary=b", noise))
    assert caught.value.code == "invalid_request"


async def test_what_nobody_reads_of_a_part_is_passed_over():
    media, body = form({"one": "1" * 1000, "two": "2"}, {"file": ("f", b"3")})
    names = [part.name async for part in opened(media, body, range(0, 2000, 7))]
    assert names == ["one", "two", "file"]


async def test_a_value_is_read_as_text_within_its_limit():
    media, body = form({"one": "длинно"})
    texts = [await part.text() async for part in opened(media, body)]
    assert texts == ["длинно", ""]
    with pytest.raises(ConsiliumError, match="more than 5 bytes"):
        [await part.text(5) async for part in opened(media, body)]


@pytest.mark.parametrize(
    ("media", "body", "words"),
    [
        (b"application/json", b"{}", "multipart/form-data"),
        (b"multipart/form-data", b"", "boundary"),
        (
            b"multipart/form-data; boundary=b",
            b"--b\r\ncontent-type: a\r\n\r\nx\r\n--b--",
            "no name",
        ),
        (
            b"multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n',
            "last boundary",
        ),
        (
            b"multipart/form-data; boundary=b",
            b"--b\r\nx: " + b"y" * LONGEST_HEADERS + b"\r\n\r\n",
            "header",
        ),
        (
            b"multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n' * (MOST_PARTS + 1),
            "parts",
        ),
    ],
)
async def test_what_is_wrong_is_named(media, body, words):
    with pytest.raises(ConsiliumError) as caught:
        await read(opened(media, body))
    assert caught.value.code == "invalid_request"
    assert words in caught.value.public()


async def test_a_caller_that_leaves():
    media, body = form(None, {"file": ("f", b"x" * 1000)})
    with pytest.raises(ConsiliumError) as caught:
        await read(opened(media, body[:500], gone=True))
    assert caught.value.code == "client_gone"
