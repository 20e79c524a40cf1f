"""Messages of the proto as dictionaries: fields under their names there, numbers as numbers, also those of 64 bits, which JSON of protobuf writes as text.

Knows protobuf. Does not know which messages there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Word: TypeAlias = Callable[[str, str], str]
"""(name of an enum, name of a value) -> the word for it."""

_LONG: Final = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})


def _as_named(_enum: str, value: str) -> str:
    return value


def as_dict(
    message: Message, *, every_field: bool = False, word: Word = _as_named
) -> dict[str, Any]:
    """Return a message as a dictionary.

    every_field  also those that were not set, but for optional ones
    word         how values of enums are called; by itself as in the proto
    """
    found = MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=every_field,
    )
    return _fields(found, message.DESCRIPTOR, word)


def _fields(found: Mapping[str, Any], kind: Any, word: Word) -> dict[str, Any]:
    return {name: _value(each, kind.fields_by_name[name], word) for name, each in found.items()}


def _value(value: Any, field: Any, word: Word) -> Any:
    if isinstance(value, list):
        return [_value(each, field, word) for each in value]
    if field.message_type is not None:
        return _fields(value, field.message_type, word)
    if field.enum_type is not None:
        return word(field.enum_type.name, value)
    return int(value) if field.cpp_type in _LONG else value
