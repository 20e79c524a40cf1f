"""Every code that is raised has a row, and every row is raised somewhere or waits for a room that is named."""

import ast

import grpc
from tests.arch.source import sources

from consilium.kernel.catalogue import BY_CODE, ROWS

RESERVED = {
    "adapter_unknown": "lora_router",
    "adapter_refused": "lora_router",
    "no_free_lora_slot": "engine/slots.py",
    "job_unknown": "jobs",
    "collection_unknown": "retrieval",
    "already_exists": "lora_router, retrieval",
    "conflict": "jobs",
    "concurrent_change": "jobs, lora_router",
    "data_damaged": "lora_router, pack",
    "adapters_failed": "lora_router",
    "retrieval_failed": "retrieval",
    "memory_failed": "memory",
    "jobs_failed": "jobs",
    "gpu_metrics_failed": "gpu_metrics",
    "guard_failed": "guard, in the processes that use it",
    "training_failed": "training",
    "pack_failed": "pack",
}
"""Codes of the house's contract that no room raises yet, and which rooms will."""

BY_VARIABLE = {
    "kernel/errors.py": "rebuilds an error that was pickled",
    "kernel/calls.py": "rebuilds an error from metadata",
}
"""Files that raise a code which is no literal, each with its reason."""

MAPPERS = (
    "kernel/catalogue.py",
    "kernel/catalogue_adapters.py",
    "kernel/catalogue_arrival.py",
    "kernel/calls.py",
)
"""Files that name codes without raising them."""


def raised():
    for source in sources():
        for call in source.calls():
            name = (
                call.func.attr
                if isinstance(call.func, ast.Attribute)
                else getattr(call.func, "id", "")
            )
            if name == "ConsiliumError":
                yield source, call


def codes_of(source, node):
    """The literals that an argument can be: itself, the branches of a conditional, or what its variable is assigned in this file."""
    if isinstance(node, ast.IfExp):
        return codes_of(source, node.body) | codes_of(source, node.orelse)
    if isinstance(node, ast.Constant):
        return {node.value}
    return source.texts(node.id) if isinstance(node, ast.Name) else set()


def test_every_code_that_is_raised_has_a_row():
    wrong = []
    for source, call in raised():
        place = f"services/consilium/{source.name}:{call.lineno}"
        codes = codes_of(source, call.args[0]) if call.args else set()
        if not codes and source.name not in BY_VARIABLE:
            wrong.append(f"{place}: the code is not seen to be a literal")
        wrong += [f"{place}: {code!r} has no row" for code in codes if code not in BY_CODE]
    assert not wrong, "\n".join(wrong)


def test_every_row_is_used_or_waits_for_a_room():
    named = {
        node.value
        for source in sources()
        if source.name not in MAPPERS
        for node in source.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in BY_CODE
    }
    assert BY_CODE.keys() - named - RESERVED.keys() == set(), (
        "rows that nobody raises; raise them, delete them, or reserve them"
    )


def test_reserved_codes_have_rows():
    assert RESERVED.keys() <= BY_CODE.keys()


def test_rows_are_whole():
    statuses = {status.name for status in grpc.StatusCode} - {"OK"}
    codes = [row.code for row in ROWS]
    assert len(codes) == len(set(codes))
    for row in ROWS:
        assert row.grpc in statuses, row.code
        assert 400 <= row.http < 600, row.code
        assert row.plain.endswith("."), row.code
        assert "!" not in row.sentence.replace("!r}", "}") + row.plain + row.next_step, row.code
    exits = [row.exit_code for row in ROWS if row.exit_code != 1]
    assert exits == list(range(64, 64 + len(exits))), (
        "numbered, without gaps, in the order of the table"
    )
    assert all(row.next_step for row in ROWS if row.exit_code != 1), (
        "who reads an exit code is told what to do"
    )
