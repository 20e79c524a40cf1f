"""What callers may know of a model's tokenizer without having it: the words that steer the model, and how many characters make a token.

Pure: lists of tokens, a template and a function that counts in, values out. Does not know tokenizers' libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

MOST_TOKENS: Final = 256
_CONTROL: Final = re.compile(r"[<\[{]\S(?:.{0,62}\S)?[>\]}]")
"""What a control token looks like. Vocabularies hold runs of blanks and common words among their added tokens, and those are text."""
_IN_TEMPLATE: Final = re.compile(r"<[|｜][^<>|｜\s]{1,60}[|｜]>")

ENGLISH: Final = (
    "The library on Mill Street opened in 1927, and for ninety years it has lent books to anyone who asked. In winter the reading room is warm; "
    "children do their homework there, and retired teachers help them. Last year the town council wanted to close it, because the roof leaked and "
    "the repair would cost 48,000 pounds. People wrote letters, collected money at the market and, in the end, mended the roof themselves. "
    'What did they learn from it? "That a place belongs to those who look after it," says the librarian.'
)
RUSSIAN: Final = (
    "Библиотека на Мельничной улице открылась в 1927 году и девяносто лет выдавала книги каждому, кто об этом просил. Зимой в читальном зале тепло; "
    "дети делают там уроки, а бывшие учителя им помогают. В прошлом году городской совет хотел её закрыть, потому что крыша протекала, а ремонт "
    "обошёлся бы в 480 тысяч рублей. Люди писали письма, собирали деньги на рынке и в конце концов починили крышу сами. "
    "Чему они научились? «Тому, что место принадлежит тем, кто о нём заботится», — говорит библиотекарь."
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What is known of a tokenizer; the defaults are for one that nobody could ask.

    special_tokens                     texts that steer the model where they stand in a prompt, such as <|im_start|>; at most MOST_TOKENS
    characters_per_token               in plain English
    characters_per_token_beyond_ascii  letters of other scripts for a token, measured in Russian
    """

    special_tokens: tuple[str, ...] = ()
    characters_per_token: float = 4.0
    characters_per_token_beyond_ascii: float = 2.0


def measured(
    count: Callable[[str], int], *, special: Iterable[str], added: Iterable[str], template: str
) -> Vocabulary:
    """Return what a tokenizer shows.

    count     tokens of a text, without those that a tokenizer puts before and after it
    special   tokens that it marks as special
    added     all tokens that were added to its vocabulary by name
    template  chat template, or nothing
    """
    return Vocabulary(
        control_tokens(special, added, template),
        round(len(ENGLISH) / max(1, count(ENGLISH)), 2),
        # All tokens of the sample are put on its letters, its blanks and digits too: an estimate that errs, errs upwards.
        round(sum(map(str.isalpha, RUSSIAN)) / max(1, count(RUSSIAN)), 2),
    )


def control_tokens(special: Iterable[str], added: Iterable[str], template: str) -> tuple[str, ...]:
    """Return the control tokens, those of the template first: special ones, added ones that the template writes, and what looks like one there."""
    special = sorted(special)
    in_template = {
        *(token for token in (*special, *added) if token in template),
        *_IN_TEMPLATE.findall(template),
    }
    ordered = dict.fromkeys((*sorted(in_template), *special))
    return tuple(token for token in ordered if _CONTROL.fullmatch(token))[:MOST_TOKENS]
