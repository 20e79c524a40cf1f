"""Profiles: how to think and sample, chosen by the caller, by the role, or per turn from the words of the turn.

Knows the built-in profiles, the rule, and which request field carries which key. Does not know executors or what a model can do.

Precedence, per field: what the caller sent > the profile > the engine's own default. A request that names neither role nor profile gets `dialog`, which sets
nothing unless the configuration says otherwise: it is answered as the bare engine would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.engine.ports import Json, Route
from consilium.gateway import lengths
from consilium.gateway.config import Profile
from consilium.gateway.models import nearest
from consilium.kernel.errors import ConsiliumError

AUTO: Final = "auto"
DIALOG: Final = "dialog"
THINK: Final = "think"
CODE: Final = "code"

BUILT_IN: Final[dict[str, Profile]] = {
    # Sampling of the model cards: Qwen3-Coder for code, Qwen3 in thinking mode for think. Dialog leaves everything to the model.
    CODE: Profile(thinking=False, temperature=0.7, top_p=0.8, top_k=20),
    THINK: Profile(thinking=True, temperature=0.6, top_p=0.95, top_k=20, min_p=0.0),
    DIALOG: Profile(),
}
"""Without a thinking budget: engines refuse one for a model that has no reasoning parser."""

SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "presence_penalty")
BUDGET: Final = "thinking_token_budget"
BUDGET_ROUTES: Final[frozenset[Route]] = frozenset({"chat", "completions"})
TEMPLATE_ROUTES: Final[frozenset[Route]] = frozenset({"chat", "responses", "tokenize"})

READ_CHARACTERS: Final = 2048
"""The rule reads the beginning and the end of a longer text, half of this each, so its price has an upper bound."""
LONG_CHARACTERS: Final = 1200
LONG_QUESTIONS: Final = 3

MATHS: Final = "maths"
STEM: Final = 5
"""Letters by which a word is looked up. A phrase below begins with a whole word, or with at least this many letters of one (Russian endings vary)."""

PHRASES: Final[dict[str, tuple[str, ...]]] = {
    THINK: (
        *(
            "step by step",
            "step-by-step",
            "think hard",
            "think carefully",
            "think deeply",
            "think through",
            "think it through",
            "reason carefully",
            "chain of thought",
        ),
        *(
            "пошагов",
            "шаг за шагом",
            "по шагам",
            "подумай как следует",
            "подумай хорош",
            "подумай тщательно",
            "подумай глубоко",
            "хорошо подумай",
            "хорошенько подумай",
        ),
        *("тщательно подумай", "поразмысли", "рассуждай", "обдумай"),
    ),
    CODE: (
        *(
            "traceback (most recent",
            "refactor",
            "stack trace",
            "stacktrace",
            "unit test",
            "regex",
            "regular expression",
            "segfault",
            "compile error",
            "compilation error",
        ),
        *(
            "pull request",
            "dockerfile",
            "#include",
            "in python",
            "in rust",
            "in golang",
            "in typescript",
            "in javascript",
            "in kotlin",
            "in c++",
            "in sql",
            "in bash",
        ),
        *(
            "на python",
            "на питоне",
            "на rust",
            "на golang",
            "на typescript",
            "на javascript",
            "на kotlin",
            "на c++",
            "на sql",
            "на bash",
        ),
        *("рефактор", "регулярное выражение", "регулярку", "стектрейс", "юнит-тест"),
    ),
    MATHS: (
        *(
            "prove that",
            "prove the",
            "proof of",
            "proof that",
            "theorem",
            "lemma",
            "integral",
            "derivative",
            "equation",
            "probability",
            "eigenvalue",
            "modulo",
            "how many ways",
        ),
        *(
            "докажи",
            "доказательств",
            "теорем",
            "лемма",
            "лемму",
            "леммы",
            "интеграл",
            "производная",
            "производную",
            "уравнени",
            "вероятност",
            "сколькими способами",
        ),
        *("собственные значения", "собственное значение"),
    ),
}
WRITE: Final = frozenset(
    {"write", "fix", "debug", "imple", "revie", "напиш", "испра", "отлад", "реали", "прове"}
)
CODE_THINGS: Final = frozenset(
    {
        "funct",
        "class",
        "metho",
        "scrip",
        "code",
        "code.",
        "code,",
        "query",
        "progr",
        "bug",
        "bug.",
        "bug,",
        "функц",
        "метод",
        "скрип",
        "код",
        "код.",
        "код,",
        "запро",
        "прогр",
    }
)
SOLVE: Final = frozenset({"solve", "calcu", "compu", "реши", "решит", "вычис", "посчи", "найди"})
NEAR_CHARACTERS: Final = 48
SIGNS: Final = ("\\frac", "\\int", "\\sum", "\\sqrt", "\\lim", "∫", "∑", "√", "≤", "≥", "∀", "∃")

_SUM: Final = re.compile(r"\d\)?\s*[-+*/^]\s*\(?\d+\)?\s*[-+*/^]\s*\(?\d")
_CODE_LINE: Final = re.compile(
    r"^\s*(?:def \w+\(|import \w+$|public (?:static|class) |func \w+\()", re.MULTILINE
)
_CODE_LINE_STEMS: Final = frozenset({"def", "impor", "publi", "func"})
_NUMBERS: Final = re.compile(r"[\d=^]")


def _indexed() -> dict[str, list[tuple[str, str]]]:
    index: dict[str, list[tuple[str, str]]] = {}
    for kind, phrases in PHRASES.items():
        for phrase in phrases:
            index.setdefault(phrase.split()[0][:STEM], []).append((kind, phrase))
    return index


_INDEX: Final = _indexed()
_STEMS: Final = frozenset(_INDEX)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A profile, and the words for the receipt of why it is this one."""

    name: str
    profile: Profile
    why: str


def known(configured: Mapping[str, Profile]) -> dict[str, Profile]:
    """Return the built-in profiles with the configured ones over them; the same name replaces one whole."""
    return {**BUILT_IN, **configured}


def choose(
    asked: str | None, role_profile: str | None, text: str, *, profiles: Mapping[str, Profile]
) -> Chosen:
    """Return the profile of a turn.

    asked         what the request names, or None
    role_profile  what the role names, or None when there is no role
    text          words of the turn; read only for `auto`
    profiles      the configured ones; the built-in ones are there besides

    Raises ConsiliumError(invalid_request) with the nearest known name.
    """
    every = known(profiles)
    if asked is None and role_profile is None:
        return Chosen(DIALOG, every[DIALOG], "neither a role nor a profile was named")
    name = asked if asked is not None else role_profile
    who = "the request" if asked is not None else "the role"
    if name != AUTO:
        if name not in every:
            raise _unknown(str(name), every)
        return Chosen(name, every[name], f"{who} names it")
    picked, why = pick(text)
    return Chosen(picked, every[picked], f"auto: {why}")


def pick(text: str) -> tuple[str, str]:
    """Return (profile, why) for the words of a turn. English and Russian; words asking for long thought go before code, and code before maths.

    One pass makes the set of word beginnings; phrases are looked for only where a word begins like them. Under 50 us for 2 kB.
    """
    read = (
        text
        if len(text) <= READ_CHARACTERS
        else f"{text[: READ_CHARACTERS // 2]} {text[-READ_CHARACTERS // 2 :]}"
    )
    lower = read.lower()
    stems = {word[:STEM] for word in set(lower.split())}
    said = {
        kind: phrase
        for stem in sorted(stems & _STEMS)
        for kind, phrase in _INDEX[stem]
        if phrase in lower
    }
    if THINK in said:
        return THINK, f"the words {said[THINK]!r}"
    if (why := _code(read, lower, stems)) or (why := said.get(CODE)):
        return CODE, f"code: {why}"
    if (why := said.get(MATHS)) or (why := _maths(read, lower, stems)):
        return THINK, f"maths: {why}"
    if len(text) >= LONG_CHARACTERS and (questions := read.count("?")) >= LONG_QUESTIONS:
        return THINK, f"{len(text)} characters with {questions} questions"
    return DIALOG, "no cue of code, maths or long thought"


def _code(read: str, lower: str, stems: set[str]) -> str | None:
    if "```" in read:
        return "a code fence"
    if not stems.isdisjoint(_CODE_LINE_STEMS) and (line := _CODE_LINE.search(read)):
        return repr(line.group().strip())
    if not stems.isdisjoint(CODE_THINGS):
        for verb in sorted(stems & WRITE):
            for after in _after(lower, verb):
                if found := {word[:STEM] for word in after.split()} & CODE_THINGS:
                    return f"{verb!r} before {min(found)!r}"
    return None


def _maths(read: str, lower: str, stems: set[str]) -> str | None:
    for sign in SIGNS:
        if sign in read:
            return repr(sign)
    for verb in sorted(stems & SOLVE):
        if any(_NUMBERS.search(after) for after in _after(lower, verb)):
            return f"{verb!r} before a number"
    if ("+" in read or "*" in read or "^" in read or "/" in read) and (found := _SUM.search(read)):
        return repr(found.group())
    return None


def _after(lower: str, verb: str) -> Iterator[str]:
    """Yield what stands behind a verb, for its first four places."""
    place = -1
    for _ in range(4):
        place = lower.find(verb, place + 1)
        if place < 0:
            return
        yield lower[place : place + NEAR_CHARACTERS]


def apply(profile: Profile, body: Json, route: Route) -> Json:
    """Return the body with the profile's keys, each only where the caller sent none; null counts as not sent. The body given stays as it is.

    thinking         -> chat_template_kwargs.enable_thinking, merged with what the caller has there
    thinking_budget  -> thinking_token_budget, where thinking is not off
    max_tokens       -> the field of the route, unless the caller sent any of its names
    """
    if route not in lengths.FIELDS and route != "tokenize":
        return body
    added: Json = {}
    if route in lengths.FIELDS:
        for key in SAMPLING:
            _offer(added, body, key, getattr(profile, key))
        if not lengths.is_named(body, route):
            _offer(added, body, lengths.FIELDS[route][-1], profile.max_tokens)
    thinking = profile.thinking
    if route in TEMPLATE_ROUTES:
        sent = body.get("chat_template_kwargs")
        words = sent if isinstance(sent, dict) else {}
        thinking = words.get("enable_thinking", thinking)
        if (
            profile.thinking is not None
            and "enable_thinking" not in words
            and (sent is None or isinstance(sent, dict))
        ):
            added["chat_template_kwargs"] = {**words, "enable_thinking": profile.thinking}
    if route in BUDGET_ROUTES and thinking is not False:
        _offer(added, body, BUDGET, profile.thinking_budget)
    return {**body, **added} if added else body


def _offer(added: Json, body: Json, key: str, value: object) -> None:
    if value is not None and body.get(key) is None:
        added[key] = value


def _unknown(name: str, every: Mapping[str, Profile]) -> ConsiliumError:
    near = nearest(name, [*every, AUTO])
    hint = (
        f"the nearest known profile is {near!r}"
        if near
        else f"there are {', '.join([*sorted(every), AUTO])}"
    )
    return ConsiliumError(
        "invalid_request",
        field="consilium.profile",
        reason=f"there is no profile {name!r}; {hint}",
        nearest=near,
    )
