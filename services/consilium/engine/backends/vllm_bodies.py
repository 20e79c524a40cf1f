"""Bodies of requests, read by vLLM's own models as its server reads them.

    good                                                the request
    a field of the wrong type, a value out of range     RequestValidationError, as FastAPI words it
    a rule of vLLM's that does not hold                 vLLM's own error
    one of vLLM's checks that did not expect such JSON  RequestValidationError too: reading looks at the body alone, so whatever it fails at is the body's

Knows pydantic and vLLM's models. Does not know engines.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from types import UnionType
from typing import Any, Final, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from vllm.exceptions import VLLMError

from consilium.engine.body_pieces import Piece, groups, is_long, pieces
from consilium.kernel.errors import ConsiliumError

_ASKING: Final = frozenset({"messages", "input", "prompt"})
"""What is asked; the largest fields, which are looked at last."""
_BREATH_S: Final = 0.005
"""After that long others are served before the next piece is read."""
_SHOWN: Final = 200
"""Characters of an exception's words in a sentence."""


class Body:
    """The model of one route's body. `joined` names the lists of which each item is read by itself: they are read group by group and put together."""

    def __init__(self, kind: Any, *, joined: frozenset[str] = frozenset()) -> None:
        self._joins = joined
        self._whole: TypeAdapter[Any] = TypeAdapter(kind)
        self._models: tuple[type[BaseModel], ...] = tuple(_models(kind))
        self._names: frozenset[str] = frozenset()

    @property
    def fields(self) -> frozenset[str]:
        """Return the names that a body may have."""
        return frozenset(name for model in self._models for name in model.model_fields)

    async def read(self, body: Mapping[str, Any]) -> Any:
        """Return the request. Others are served while a long body is read.

        Raises RequestValidationError, ConsiliumError(invalid_request), and errors of vLLM's that are the caller's fault.
        """
        read: dict[str, list[Any]] = {}
        long = [name for name, value in body.items() if is_long(value)]
        model = self._model_of(body)
        if long and model is not None:
            breath = _Breath()
            if not self._names:  # takes half a second
                schema = self._whole.core_schema
                self._names = await asyncio.to_thread(lambda: frozenset(_names_in(schema)))
            for name in long:
                if name in self._joins and isinstance(body[name], list):
                    read[name] = [item async for item in self._joined(model, name, body, breath)]
                else:
                    await self._check_long(model, name, body, breath)
        request = self._whole_of({**body, **dict.fromkeys(read, "")}, body)
        for name, items in read.items():
            setattr(request, name, items)
        return request

    def _whole_of(self, body: Mapping[str, Any], told: Mapping[str, Any]) -> Any:
        try:
            return self._whole.validate_python(body, from_attributes=True)
        except ValidationError as error:
            raise _as_fastapi(error.errors(include_url=False), told) from error
        except VLLMError:
            raise
        except Exception as error:
            self._check_alone(body)
            reason = f"it could not be read ({type(error).__name__}: {str(error)[:_SHOWN]})"
            field = self.where_it_fails(body, error)
            raise ConsiliumError("invalid_request", field=field, reason=reason) from error

    def _model_of(self, body: Mapping[str, Any]) -> TypeAdapter[Any] | None:
        """Return the one model that the body can be of."""
        if len(self._models) == 1:
            return self._whole
        fitting = [model for model in self._models if _required(model) <= body.keys()]
        return self._readers[fitting[0]] if len(fitting) == 1 else None

    @cached_property
    def _readers(self) -> dict[type[BaseModel], TypeAdapter[Any]]:
        return {model: TypeAdapter(model) for model in self._models}

    async def _check_long(
        self, model: TypeAdapter[Any], name: str, body: Mapping[str, Any], breath: _Breath
    ) -> None:
        """Raise for the first piece of a long field that is wrong, so that a field with many wrong entries costs no more than one with few."""
        for piece in pieces(body[name], self._names):
            _read_piece(model, name, piece, body)
            await breath.taken()

    async def _joined(
        self, model: TypeAdapter[Any], name: str, body: Mapping[str, Any], breath: _Breath
    ) -> AsyncIterator[Any]:
        """Yield what the items of a long list are read as. Raises like `read`."""
        for at, some in groups(body[name]):
            if is_long(some):
                for piece in pieces(some, self._names):
                    moved = (("", at), *piece.moved[1:])
                    _read_piece(model, name, Piece(piece.value, moved), body)
                    await breath.taken()
            request = _read_piece(model, name, Piece(some, (("", at),)), body)
            if request is None:
                request = self._whole_of({**body, name: some}, body)
            for item in getattr(request, name):
                yield item
            await breath.taken()

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
        """Return the field with which reading fails like that, and without which it does not: halves of the body are read until one field is left.

        Of a long field the beginning is read.
        """
        body = {name: next(pieces(value, self._names)).value for name, value in body.items()}
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


class _Breath:
    """Lets others be served every few milliseconds."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def taken(self) -> None:
        if time.monotonic() - self._since > _BREATH_S:
            await asyncio.sleep(0)
            self._since = time.monotonic()


def _read_piece(
    model: TypeAdapter[Any], name: str, piece: Piece, body: Mapping[str, Any]
) -> Any | None:
    """Return the request with nothing but a piece of a field, None if other fields are missed. Raises for what is wrong in the piece."""
    # without a prompt vLLM reads nothing of a completion
    beside = {"prompt": "-"} if "prompt" in body else {}
    try:
        return model.validate_python({**beside, name: piece.value}, from_attributes=True)
    except ValidationError as error:
        found = [item for item in error.errors(include_url=False) if item["loc"][:1] == (name,)]
        if found:
            told = [{**item, "loc": piece.place(item["loc"])} for item in found]
            raise _as_fastapi(told, body) from error
    except Exception:  # told when the whole is read
        return None
    return None


def _required(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, field in model.model_fields.items() if field.is_required())


def _names_in(schema: Any) -> Iterator[str]:
    """Yield the names of the fields of all records in pydantic's schema of a model."""
    seen: set[int] = set()
    left = [schema]
    while left:
        item = left.pop()
        if not isinstance(item, dict | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            fields = item.get("fields")
            if isinstance(fields, dict):
                yield from fields
            elif isinstance(fields, list):
                yield from (field["name"] for field in fields if isinstance(field, dict))
            left += item.values()
        else:
            left += item
