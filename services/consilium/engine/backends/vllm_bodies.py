"""Bodies of requests, read by vLLM's own models as its server reads them.

    good                                                the request
    a field of the wrong type, a value out of range     RequestValidationError, as FastAPI words it
    a rule of vLLM's that does not hold                 vLLM's own error
    one of vLLM's checks that did not expect such JSON  RequestValidationError too: reading looks at the body alone, so whatever it fails at is the body's

Knows pydantic and vLLM's models. Does not know engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import UnionType
from typing import Any, Final, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from vllm.exceptions import VLLMError

from consilium.kernel.errors import ConsiliumError

_ASKING: Final = frozenset({"messages", "input", "prompt"})
"""What is asked; the largest fields, which are looked at last."""
_PIECE: Final = 16
"""Entries of a long list or object that are read at a time: vLLM needs 3 ms to say of one item of `input` how it is wrong, and nobody else is served meanwhile."""
_NUMBERS: Final = 512
"""The same for lists of token ids, which are long and quickly read."""
_SHOWN: Final = 200
"""Characters of an exception's words in a sentence."""


class Body:
    """The model of one route's body."""

    def __init__(self, kind: Any) -> None:
        self._whole: TypeAdapter[Any] = TypeAdapter(kind)
        self._models: tuple[type[BaseModel], ...] = tuple(_models(kind))

    @property
    def fields(self) -> frozenset[str]:
        """Return the names that a body may have."""
        return frozenset(name for model in self._models for name in model.model_fields)

    def read(self, body: Mapping[str, Any]) -> Any:
        """Return the request. Raises RequestValidationError, ConsiliumError(invalid_request), and errors of vLLM's that are the caller's fault."""
        self._check_long(body)
        try:
            return self._whole.validate_python(body, from_attributes=True)
        except ValidationError as error:
            raise _as_fastapi(error.errors(include_url=False), body) from error
        except VLLMError:
            raise
        except Exception as error:
            self._check_alone(body)
            reason = f"it could not be read ({type(error).__name__}: {str(error)[:_SHOWN]})"
            field = self.where_it_fails(body, error)
            raise ConsiliumError("invalid_request", field=field, reason=reason) from error

    def _check_long(self, body: Mapping[str, Any]) -> None:
        """Raise for the first piece of a long field that is wrong, so that a field with many wrong entries costs no more than one with few."""
        if len(self._models) > 1:  # their errors begin with the name of a model
            return
        for name, value in body.items():
            if not isinstance(value, list | dict) or len(value) <= _PIECE:
                continue
            for at, piece in _pieces(value):
                errors = self._errors_in({name: piece})
                found = [_shifted(item, at) for item in errors if item["loc"][:1] == (name,)]
                if found:
                    raise _as_fastapi(found, body)

    def _errors_in(self, body: dict[str, Any]) -> list[Any]:
        try:
            self._whole.validate_python(body, from_attributes=True)
        except ValidationError as error:
            return list(error.errors(include_url=False))
        except Exception:  # told when the whole is read
            return []
        return []

    def _check_alone(self, body: Mapping[str, Any]) -> None:
        """Raise for the fields of the wrong type, found without the checks that fell over them."""
        found: list[ValidationError] = []
        for model in self._plain:
            try:
                model.model_validate(dict(body))
            except ValidationError as error:
                found.append(error)
            except VLLMError:
                raise
            except Exception:  # a check of one field fell over it
                return
            else:
                return
        fewest = min(found, key=ValidationError.error_count)
        raise _as_fastapi(fewest.errors(include_url=False), body) from fewest

    def where_it_fails(self, body: Mapping[str, Any], error: Exception) -> str:
        """Return the field with which reading fails like that, and without which it does not: halves of the body are read until one field is left."""
        names = sorted(body, key=lambda name: name in _ASKING)
        sound, fails = 0, len(names)
        while fails - sound > 1:
            middle = (sound + fails) // 2
            if self._fails_alike({name: body[name] for name in names[:middle]}, error):
                fails = middle
            else:
                sound = middle
        return names[sound] if names else "body"

    def _fails_alike(self, body: dict[str, Any], error: Exception) -> bool:
        try:
            self._whole.validate_python(body, from_attributes=True)
        except Exception as other:
            return type(other) is type(error) and str(other) == str(error)
        return False

    @cached_property
    def _plain(self) -> tuple[type[BaseModel], ...]:
        """Return the models with their fields and without their checks of the whole."""
        return tuple(
            create_model(
                model.__name__,
                __config__=ConfigDict(extra="allow"),
                **{name: (field.annotation, field) for name, field in model.model_fields.items()},  # type: ignore[call-overload]
            )
            for model in self._models
        )


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if get_origin(kind) is None and not isinstance(kind, UnionType):
        return []
    return [model for part in get_args(kind) for model in _models(part)]


def read_late(error: ValidationError, body: Mapping[str, Any]) -> RequestValidationError:
    """Return the error for parts of messages, which vLLM's models read only when somebody looks at them. Where they stand is not told then."""
    place = next((name for name in ("messages", "input") if name in body), "prompt")
    errors = [{**item, "loc": ("body", place)} for item in error.errors(include_url=False)]
    return RequestValidationError(errors, body=body)


def _as_fastapi(errors: Sequence[Any], body: Any) -> RequestValidationError:
    # Its errors begin at ("body", ...) and carry no URL.
    told = [{**item, "loc": ("body", *item["loc"])} for item in errors]
    return RequestValidationError(told, body=body)


def _pieces(value: list[Any] | dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yield (place of the first entry, piece)."""
    if isinstance(value, dict):
        items = list(value.items())
        yield from ((0, dict(items[at : at + _PIECE])) for at in range(0, len(items), _PIECE))
        return
    size = _NUMBERS if all(isinstance(item, int) for item in value) else _PIECE
    yield from ((at, value[at : at + size]) for at in range(0, len(value), size))


def _shifted(item: Any, by: int) -> Any:
    """Return an error of a piece with the place that its entry has in the whole."""
    loc = list(item["loc"])
    place = next((number for number, part in enumerate(loc) if isinstance(part, int)), None)
    if place is not None:
        loc[place] += by
    return {**item, "loc": tuple(loc)}
