"""What routing by meaning is measured with: eight adapters, 484 lines, 40 talks, and the vectors of all their texts.

    routing_domains.yaml         what each adapter is for, and six questions that it should answer
    routing_questions.tsv        part, language, domain, text: 300 lines, 100 are nobody's
    routing_more_questions.tsv   184 written later: 120 are nobody's, of everyday talk, translations, and follow-ups to nothing
    routing_talks.tsv            part, talk, language, domain, text: 20 talks of five turns, each changes its subject once
    routing_more_talks.tsv       20 written later, with more follow-ups; some change their subject twice

Those of part `tune` were looked at when the rule and its limits were chosen, those of `held` were not. Vectors are made once and kept in .cache/routing.
"""

import asyncio
import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from consilium.embedding.client import Embedding, open_embeddings
from consilium.gateway.adapter_rows import Row
from consilium.gateway.adapters import texts_of
from consilium.gateway.meaning import Prototypes
from consilium.gateway.neutral_questions import FOLLOW_UPS, NEUTRAL, SMALL_TALK

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".cache" / "routing"
NOBODY = "none"


@dataclass(frozen=True, slots=True)
class Line:
    """A question: whose it is, and of which part; `talk` where it belongs to one."""

    part: str
    language: str
    domain: str
    text: str
    talk: str = ""


def questions(*, more=False):
    """Return the 300 lines, or the 184 that were written later."""
    return _read("routing_more_questions.tsv" if more else "routing_questions.tsv")


def talks(*, more=False):
    """Return the turns of 20 talks, one talk after the other: the first ones, or those that were written later."""
    return _read("routing_more_talks.tsv" if more else "routing_talks.tsv")


def domains(*, language="", with_examples=True):
    """Return name -> the row of each adapter; `language` keeps the examples of one language."""
    told = yaml.safe_load((HERE / "routing_domains.yaml").read_text("utf-8"))
    return {
        name: Row(
            name,
            current="0" * 64,
            versions=(),
            domain=row["domain"],
            examples=tuple(
                text
                for text in row["examples"]
                if with_examples and language in ("", _language(text))
            ),
        )
        for name, row in told.items()
    }


class Vectors:
    """Vectors of texts by one embedding model, made once."""

    def __init__(self, model):
        self.model = model
        self._file = KEPT / f"{model}.npz"
        self._made = dict(np.load(self._file)) if self._file.exists() else {}

    def of(self, pairs):
        """Return the vectors of (text, kind) as rows."""
        missing = [pair for pair in dict.fromkeys(pairs) if _key(pair) not in self._made]
        if missing:
            asyncio.run(self._make(missing))
            KEPT.mkdir(parents=True, exist_ok=True)
            np.savez(self._file, **self._made)
        return np.stack([self._made[_key(pair)] for pair in pairs])

    async def _make(self, pairs):
        embeddings = open_embeddings(Embedding(model=self.model, truncate=True))
        for kind in ("query", "passage"):
            texts = [text for text, each in pairs if each == kind]
            if texts:
                found = await embeddings.embed(texts, kind)
                keys = (_key((text, kind)) for text in texts)
                self._made.update(zip(keys, found.values, strict=True))
        await embeddings.aclose()


def prototypes(vectors, rows, *, with_neutral=True):
    """Return the prototypes of adapters as the gateway makes them."""
    everyday = (
        vectors.of([(text, "query") for text in texts]) if with_neutral else None
        for texts in (NEUTRAL, FOLLOW_UPS, SMALL_TALK)
    )
    told = {name: texts_of(row) for name, row in rows.items()}
    return Prototypes.of(
        {name: (vectors.of(pairs), [text for text, _ in pairs]) for name, pairs in told.items()},
        *everyday,
    )


def _read(name):
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return [Line(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _language(text):
    return "ru" if any("а" <= letter <= "я" for letter in text.lower()) else "en"


def _key(pair):
    return hashlib.sha256("\n".join(reversed(pair)).encode()).hexdigest()
