"""Tests judge no speed: a machine that stands still for some seconds at times fails none of them.

How quick something is belongs into tests/bench. Here one waits for the thing itself, as long as tests/waiting.py does, says what is meant by the order
of events, or tells an answer from a hang with `sooner_than`, whose hang lasts. That something took long enough may be judged: a busy machine adds to it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.arch.source import REPOSITORY, repository_files

STOPWATCHES = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"}
SECONDS = {"took", "took_s", "took_ms", "elapsed", "elapsed_s", "elapsed_ms", "spent", "spent_s"}
LEAST_S = 10.0
"""Seconds that the limit of a wait has at least: an answer that takes milliseconds takes some seconds where the machine stands still."""
WAITS = {
    "asyncio.timeout": 0,
    "pytest.mark.timeout": 0,
    "asyncio.wait_for": 1,
    "until": 1,
    "until_true": 1,
    "subprocess.run": None,
    "communicate": None,
}
"""Calls that wait, and the place of their limit where it has no name."""
LIMITS = {"timeout", "limit_s"}


@dataclass(frozen=True)
class Found:
    """What a test must not do, and its line."""

    line: int
    what: str


def test_no_test_judges_how_soon_something_is_done():
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{found.line}: {found.what}"
        for path in _tests()
        for found in judged(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "wait for the thing itself, or use tests.waiting.sooner_than:\n" + "\n".join(
        wrong
    )


@pytest.mark.parametrize(
    "text",
    [
        "assert time.monotonic() - begun < 3",
        "assert 0 < time.perf_counter() - begun <= LIMIT_S",
        "assert told['took_s'] < 3",
        "assert 3 > reply.elapsed",
        "spent = time.monotonic() - begun\nassert spent < 1",
        "runs.append(loop.time() - begun)\nassert max(runs) < 0.5",
        "assert asyncio.get_running_loop().time() - begun < 5",
        "end = time.monotonic() + 3",
        "assert call.deadline - time.time() < 2",
        "async with asyncio.timeout(5): ...",
        "await asyncio.wait_for(done.wait(), 1)",
        "until(lambda: there, limit_s=3.0)",
        "process.communicate(timeout=5)",
        "@pytest.mark.timeout(5)\ndef test(): ...",
    ],
)
def test_what_is_refused(text):
    assert len(list(judged(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "assert time.monotonic() - begun > 3",
        "assert 3 <= told['took_s']",
        "assert allowed <= 40 + int(took_s * 40 / 60)",
        "while time.monotonic() - begun < LIMIT_S: ...",
        "end = time.monotonic() + 60\nassert time.monotonic() < end",
        "assert made - time.time() < 60",
        "with sooner_than(60): ...",
        "async with asyncio.timeout(60): ...",
        "until(lambda: there)",
        "with pytest.raises(TimeoutError):\n    await asyncio.wait_for(never, 0.1)",
    ],
)
def test_what_is_no_stopwatch(text):
    assert not list(judged(text))


def judged(text: str) -> Iterator[Found]:
    """Yield the comparisons and the short limits of a file."""
    tree = ast.parse(text)
    meant = {
        id(inner) for node in ast.walk(tree) if _raises(node) for inner in ast.walk(node)
    }  # a limit that is to be met
    for scope in ast.walk(tree):
        if isinstance(scope, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _compared(scope)
    for node in ast.walk(tree):
        if id(node) not in meant and (short := _short(node)):
            yield Found(node.lineno, f"a limit of {short:g} s")


def _tests() -> Iterator[Path]:
    folder = REPOSITORY / "tests"
    for path in repository_files():
        is_test = path.suffix == ".py" and path.is_relative_to(folder)
        if is_test and not path.is_relative_to(folder / "bench") and path.name != "waiting.py":
            yield path


def _compared(scope: ast.AST) -> Iterator[Found]:
    own = list(_of(scope))
    names = SECONDS | {name for node in own for name in _measured(node)}
    for node in own:
        if not isinstance(node, ast.Assert):
            continue
        for each in ast.walk(node.test):
            if isinstance(each, ast.Compare):
                for small, large in _pairs(each):
                    if _is_time(small, names) or (_is_date(small) and _number(large) < LEAST_S):
                        yield Found(each.lineno, ast.unparse(each))


def _of(scope: ast.AST) -> Iterator[ast.AST]:
    """Walk a function without those within it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _of(child)


def _measured(node: ast.AST) -> Iterator[str]:
    """Yield the variables that hold seconds measured here: `spent = clock() - begun`, `runs.append(clock() - begun)`."""
    if isinstance(node, ast.Assign) and _is_difference(node.value):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
        and any(_is_difference(argument) for argument in node.args)
    ):
        yield node.func.value.id


def _is_difference(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _has_stopwatch(node)


def _pairs(node: ast.Compare) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield (smaller, larger) of each comparison that says which is which."""
    sides = [node.left, *node.comparators]
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Lt | ast.LtE):
            yield left, right
        elif isinstance(operator, ast.Gt | ast.GtE):
            yield right, left


def _is_time(node: ast.expr, names: set[str]) -> bool:
    for each in ast.walk(node):
        if _is_difference(each):
            return True
        name = getattr(each, "id", None) or getattr(each, "attr", None)
        if isinstance(each, ast.Subscript) and isinstance(each.slice, ast.Constant):
            name = each.slice.value
        if isinstance(name, str) and name in names:
            return True
    return False


def _has_stopwatch(node: ast.expr) -> bool:
    return any(_clock(each) not in {"", "date"} for each in ast.walk(node))


def _is_date(node: ast.expr) -> bool:
    return any(_clock(each) == "date" for each in ast.walk(node))


def _clock(node: ast.AST) -> str:
    """Return which clock is read here: the name of a stopwatch, `date` for time.time(), or nothing."""
    if not isinstance(node, ast.Call):
        return ""
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if name == "time":
        return "date" if ast.unparse(node.func) in {"time", "time.time"} else "loop"
    return name if name in STOPWATCHES else ""


def _short(node: ast.AST) -> float:
    """Return the limit of a call that waits, or the seconds to an end that is set by hand, if they are few; else 0."""
    if isinstance(node, ast.Assign):
        ends = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        added = [one for one in ends if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Add)]
        few = [_number(one.right) for one in added if _has_stopwatch(one.left)]
        return next((seconds for seconds in few if seconds < LEAST_S), 0.0)
    if not isinstance(node, ast.Call):
        return 0.0
    name = ast.unparse(node.func)
    name = name if name in WAITS else name.rpartition(".")[2]
    if name not in WAITS:
        return 0.0
    place = WAITS[name]
    given = [one.value for one in node.keywords if one.arg in LIMITS]
    given += [] if place is None else node.args[place : place + 1]
    return next((limit for one in given if 0 < (limit := _number(one)) < LEAST_S), 0.0)


def _number(node: ast.expr) -> float:
    """Return the number that stands here, or an endless one where none does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    return float("inf")


def _raises(node: ast.AST) -> bool:
    return isinstance(node, ast.With | ast.AsyncWith) and any(
        "raises" in ast.unparse(item.context_expr) for item in node.items
    )
