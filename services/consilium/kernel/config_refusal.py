"""How a wrong configuration is told: the key, the value, what is allowed, the nearest name, and where it stands.

Every sentence is made here from the model's own fields; nothing that pydantic says reaches a person. Knows annotations and limits. Does not know sections.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, SecretStr, Tag, ValidationError
from pydantic.fields import FieldInfo

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.masking import sounds_secret, without_userinfo
from consilium.kernel.yaml_source import line_of

ENVIRONMENT: Final = "CONSILIUM_"
_KEY_LABEL: Final = "[key]"
_SHOWN: Final = 60
_MOST: Final = 20
_SIMPLE: Final[dict[object, str]] = {
    bool: "true or false",
    dict: "a section of keys and values",
    list: "a list",
    tuple: "a list",
    SecretStr: "a text",
}
_PATTERNS: Final = {
    r"^[a-z0-9][a-z0-9._-]{0,62}$": "a name of small letters, digits, dots, dashes and underscores (63 at most, a letter or digit first)",
    r"^https?://": "an address that begins with http:// or https://",
    r"^[a-z0-9_-]{1,16}$": "1 to 16 small letters, digits, dashes and underscores",
}

Place = list[int | str]
Origins = Mapping[str, Literal["default", "file", "environment", "flag"]]


class WrongValueError(ValueError):
    """Raised by a validator that looks at several keys: names the key at fault as parts, such as ("roles", "poet", "profile"), and what is wrong with it."""

    def __init__(self, place: Sequence[str], reason: str, nearest: str | None = None) -> None:
        super().__init__(f"{'.'.join(place)}: {reason}")
        self.place: Place = list(place)
        self.reason = reason
        self.nearest = nearest


def no_such(word: str, kind: str, known: typing.Iterable[str]) -> tuple[str, str | None]:
    """Return the sentence for a name that means nothing, and the nearest name that does."""
    names = sorted(known)
    if not names:
        return f"there is no {kind} {word!r}, and no other {kind}", None
    near = _nearest(word, names)
    hint = f"the nearest is {near!r}; " if near else ""
    return (
        f"there is no {kind} {word!r}; {hint}there {'is' if len(names) == 1 else 'are'} {_joined(names, 'and')}",
        near,
    )


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of value that a key may hold, with the limits that stand beside it (annotated_types and pydantic's own)."""

    annotation: Any
    limits: tuple[Any, ...] = ()

    def tag(self) -> str | None:
        """Return the tag of a member of a union that is told apart by its kind."""
        return next((limit.tag for limit in self.limits if isinstance(limit, Tag)), None)


def told(
    err: ValidationError, root: type[BaseModel], path: Path | None, origins: Origins
) -> ConsiliumError:
    """Return one error for all wrong keys of a tree, in our words: a line each, unknown keys first; `key` and `nearest` are those of the first line.

    path     the file that was read, or None
    origins  dotted key -> where it came from, for the end of each line
    """
    faults = _faults(err, root)
    lines = [
        fault.reason + _where(path, fault.place, _origin(origins, fault.place)) for fault in faults
    ]
    more = [
        f"{fault.key}: {line}" for fault, line in zip(faults[1:_MOST], lines[1:_MOST], strict=True)
    ]
    if len(faults) > _MOST:
        more.append(f"and {len(faults) - _MOST} more")
    return ConsiliumError(
        "config_invalid",
        key=faults[0].key,
        reason="\n".join([lines[0], *more]),
        nearest=faults[0].nearest,
    )


@dataclass(frozen=True, slots=True)
class _Fault:
    """One wrong key: where, what is wrong with it, and the nearest name that would do."""

    place: Place
    reason: str
    nearest: str | None

    @property
    def key(self) -> str:
        return ".".join(str(part) for part in self.place) or "the file"


def _faults(err: ValidationError, root: type[BaseModel]) -> list[_Fault]:
    """Return one fault for each wrong key, unknown keys first: a key that is missing may only be misspelt.

    pydantic reports each member of a union by itself, at the key and below it: the first report is the fault. A key that is missing beside its misspelling is none.
    """
    found: list[_Fault] = []
    items = sorted(
        err.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden"
    )
    for item in items:
        fault = _fault(item, root)
        place = fault.place
        told_already = any(
            one.place == place[: len(one.place)]
            or one.place[: len(place)] == place
            or (item["type"] == "missing" and [*one.place[:-1], one.nearest] == place)
            for one in found
        )
        if not told_already:
            found.append(fault)
    return found


def _fault(item: Any, root: type[BaseModel]) -> _Fault:
    place, kinds, above = _resolve(root, item["loc"])
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, WrongValueError):
        return _Fault(cause.place, cause.reason, cause.nearest)
    reason, nearest = _sentence(item, place, kinds, above)
    if item["type"].startswith("union_tag") and isinstance(item.get("input"), Mapping):
        place = [*place, "kind"]
    return _Fault(place, reason, nearest)


def _sentence(
    item: Any, place: Place, kinds: list[_Kind], above: list[_Kind]
) -> tuple[str, str | None]:
    """Return (sentence, nearest name) for one of pydantic's errors."""
    match item["type"]:
        case "extra_forbidden":
            known = sorted(
                {
                    name
                    for one in above
                    if _is_model(one.annotation)
                    for name in one.annotation.model_fields
                }
            )
            near = _nearest(str(place[-1]), known)
            return "there is no such key. " + (
                f"The nearest known key is {near!r}"
                if near
                else f"Known keys are {', '.join(known)}"
            ), near
        case "value_error":
            return item["msg"].removeprefix("Value error, "), None
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in item["ctx"]["expected_tags"].split(",")]
            near = _nearest(item["ctx"]["tag"], tags)
            return (
                f"{_joined(tags, 'or')} is needed{_hint(near)} (it is {item['ctx']['tag']!r})",
                near,
            )
        case "missing":
            return f"{_allowed(kinds)} is needed, and the key is not there", None
    return _value_sentence(item, place, kinds, above)


def _value_sentence(
    item: Any, place: Place, kinds: list[_Kind], above: list[_Kind]
) -> tuple[str, str | None]:
    """Return (sentence, nearest name) for a value, or a name of the owner's choice, that is not allowed."""
    if item["loc"][-1:] == (_KEY_LABEL,):
        return f"this must be {_allowed(kinds)}", None
    in_mapping = any(typing.get_origin(one.annotation) is dict for one in above)
    secret = any(one.annotation is SecretStr for one in kinds) or (
        in_mapping and sounds_secret(place[-1])
    )
    if item.get("input") is None:
        models = [one.annotation for one in above if _is_model(one.annotation)]
        needed = any(
            model.model_fields[str(place[-1])].is_required()
            for model in models
            if str(place[-1]) in model.model_fields
        )
        return f"{_allowed(kinds)} is needed, and it is empty" + (
            "" if needed or not models else "; leave the key out to take the default"
        ), None
    kind, given = item["type"], item.get("input")
    allowed = _allowed(kinds)
    if secret:
        return f"{allowed} is needed" + (
            "; write it in quotes" if kind == "string_type" else ""
        ), None
    words = [str(word) for one in kinds for word in _words(one)]
    near = _nearest(given, words) if isinstance(given, str) else None
    hint = _hint(near)
    if kind == "string_type" and not isinstance(given, list | Mapping):
        hint = f"; write it in quotes: '{_written(given)}'"
    held = (
        "a list"
        if isinstance(given, list)
        else "keys and values"
        if isinstance(given, Mapping | BaseModel)
        else _shown(given)
    )
    return f"{allowed} is needed{hint} (it is {held})", near


def _hint(near: str | None) -> str:
    return f", the nearest is {near!r}" if near else ""


def _written(given: object) -> str:
    return str(given).lower() if isinstance(given, bool) else str(given)


def _shown(given: object) -> str:
    text = repr(without_userinfo(given)) if isinstance(given, str) else _written(given)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _resolve(
    root: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[Place, list[_Kind], list[_Kind]]:
    """Walk the types along a location of pydantic's.

    Returns the place without the labels of unions, which pydantic adds and no file holds; the kinds of value that may stand there; and those of the level above.
    """
    place: Place = []
    kinds, above = [_Kind(root)], list[_Kind]()
    for part in location:
        if part == _KEY_LABEL:
            kinds = [found for one in above for found in _kinds(*_arguments(one)[:1])]
        elif any(one.tag() is not None for one in kinds):
            kinds = [_Kind(one.annotation) for one in kinds if one.tag() == part]
        elif (
            (below := [found for one in kinds for found in _below(one, part)])
            or len(kinds) == 1
            or any(_is_model(one.annotation) for one in kinds)
        ):
            place.append(part)
            above, kinds = kinds, below or kinds
    return place, kinds, above


def _kinds(annotation: Any = object, limits: tuple[Any, ...] = ()) -> list[_Kind]:
    """Return the kinds of value that an annotation allows, None left out."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *more = typing.get_args(annotation)
        flat = [
            inner
            for one in more
            for inner in (one.metadata if isinstance(one, FieldInfo) else [one])
        ]
        return _kinds(annotation, (*limits, *flat))
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return [found for member in typing.get_args(annotation) for found in _kinds(member, limits)]
    return [] if annotation is type(None) else [_Kind(annotation, limits)]


def _below(kind: _Kind, part: int | str) -> list[_Kind]:
    if _is_model(kind.annotation):
        field = kind.annotation.model_fields.get(str(part))
        return _kinds(field.annotation, tuple(field.metadata)) if field is not None else []
    if typing.get_origin(kind.annotation) in {dict, list, tuple}:
        return _kinds(_arguments(kind)[-1 if typing.get_origin(kind.annotation) is dict else 0])
    return []


def _arguments(kind: _Kind) -> tuple[Any, ...]:
    return typing.get_args(kind.annotation)


def _is_model(annotation: Any) -> bool:
    return (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    )


def _allowed(kinds: list[_Kind]) -> str:
    """Return what may stand there, in words: 'auto or a whole number from 1 to 9'."""
    words = [word for one in kinds for word in _words(one)]
    fields = {
        name: field.is_required()
        for one in kinds
        if _is_model(one.annotation)
        for name, field in one.annotation.model_fields.items()
    }
    section = (
        [
            f"a section of keys such as {_joined(sorted(fields, key=lambda name: not fields[name])[:3], 'and')}"
        ]
        if fields
        else []
    )
    found = list(
        dict.fromkeys(
            [
                *words,
                *section,
                *(
                    _in_words(one)
                    for one in kinds
                    if not _words(one) and not _is_model(one.annotation)
                ),
            ]
        )
    )
    return _joined(found, "or") if found else "another value"


def _words(kind: _Kind) -> list[str]:
    return (
        [str(word) for word in typing.get_args(kind.annotation)]
        if typing.get_origin(kind.annotation) is Literal
        else []
    )


def _in_words(kind: _Kind) -> str:
    if kind.annotation in {int, float}:
        return ("a whole number" if kind.annotation is int else "a number") + _range(kind)
    if kind.annotation is str:
        pattern = next(
            (limit.pattern for limit in kind.limits if getattr(limit, "pattern", None)), None
        )
        return (
            "a text" if pattern is None else _PATTERNS.get(pattern, f"a text of the form {pattern}")
        )
    return _SIMPLE.get(typing.get_origin(kind.annotation) or kind.annotation, "another value")


def _range(kind: _Kind) -> str:
    """Return the limits of a number in words, such as ' from 1 to 65535' or ' above 0'."""
    found = {
        name: value
        for name in ("ge", "gt", "le", "lt")
        for limit in kind.limits
        if (value := getattr(limit, name, None)) is not None
    }
    if {"ge", "le"} <= set(found):
        return (
            f" from {found['ge']:g} to {found['le']:g}"
            if max(abs(found["ge"]), abs(found["le"])) < 10**5
            else f" from {found['ge']} to {found['le']}"
        )
    named = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    said = [f"{named[name]} {value:,}".replace(",", "") for name, value in found.items()]
    return f" {' and '.join(said)}" if said else ""


def _joined(words: Sequence[str], last: str) -> str:
    return (
        words[0]
        if len(words) == 1
        else f"{', '.join(words[:-1])} {last} {words[-1]}"
        if words
        else ""
    )


def _nearest(word: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)


def _origin(origins: Origins, place: Place) -> tuple[str | None, Place]:
    """Return where the key, or the nearest one above it that was given whole, came from, and that place."""
    for end in range(len(place), 0, -1):
        found = origins.get(".".join(str(part) for part in place[:end]))
        if found is not None:
            return found, place[:end]
    return None, place


def _where(path: Path | None, place: Place, origin: tuple[str | None, Place]) -> str:
    if origin[0] == "environment":
        return f" (from {ENVIRONMENT}{'__'.join(str(part).upper() for part in origin[1])})"
    if origin[0] == "flag" or path is None or path.suffix == ".json":
        return ""
    line = line_of(path, place)
    return f" ({path.name}, line {line})" if line else f" ({path.name})" if place else ""
