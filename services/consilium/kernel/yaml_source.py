"""Reads one YAML file of keys and values, strictly, and says where a key stands.

A key that is written twice is refused: YAML itself would take the last one and say nothing. Does not know what the keys mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from consilium.kernel.errors import ConsiliumError

MAX_BYTES: Final = 4 << 20
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Twice(yaml.YAMLError):
    """A key that a mapping holds twice. Lines count from 1."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__(
            f"{key!r} is written twice, in line {first} and in line {second}; keep one"
        )
        self.key, self.first, self.second = key, first, second


class _Strict(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  yaml's own signature
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                line = key.start_mark.line + 1
                if (key.tag, key.value) in seen:
                    raise _Twice(key.value, seen[key.tag, key.value], line)
                seen[key.tag, key.value] = line
        return super().construct_mapping(node, deep=deep)


def value_of(text: str) -> Any:
    """Return the value that YAML text stands for. Raises yaml.YAMLError, also for a key written twice."""
    try:
        return yaml.load(text, Loader=_Strict)  # noqa: S506  a SafeLoader
    except RecursionError as err:
        msg = "brackets are nested too deeply"
        raise yaml.YAMLError(msg) from err
    except ValueError as err:  # a date that does not exist
        raise yaml.YAMLError(str(err)) from err


def read(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file; an empty file has none.

    Raises ConsiliumError(config_invalid) with the line: not there, not text, not YAML, a key twice, no keys and values, above 4 MiB.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused(
                path, f"it has {path.stat().st_size >> 20} MiB; a configuration is a few kB of YAML"
            )
        tree = value_of(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refused(path, "it cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror or str(err) if isinstance(err, OSError) else "not text in UTF-8"
        raise _refused(path, f"it cannot be read: {reason}") from None
    except _Twice as err:
        raise ConsiliumError(
            "config_invalid", key=f"{path}, line {err.second}", reason=str(err)
        ) from None
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _refused(path, f"not YAML: {where}{getattr(err, 'problem', None) or err}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise _refused(path, "the file must hold keys and values, such as 'model: demo'")
    return tree


def _refused(path: Path, reason: str) -> ConsiliumError:
    return ConsiliumError("config_invalid", key=str(path), reason=reason)


def line_of(path: Path, place: Sequence[int | str]) -> int | None:
    """Return the line, counted from 1, of the key at a place of the tree, or of the nearest one above it; None where the file holds none of it."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    line = None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
