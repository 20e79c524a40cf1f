"""Every row of the metrics table is written somewhere, by the method that fits its kind and with its labels."""

import ast

from tests.arch.source import sources

from consilium.kernel.metrics_table import BY_NAME, TABLE

METHODS = {"counter": {"add"}, "gauge": {"set", "add"}, "histogram": {"observe"}}
WRITES = frozenset().union(*METHODS.values())


def writes():
    """Yield (place, method, name, labels) of every call that writes a metric of ours."""
    for source in sources():
        for call in source.calls():
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in WRITES:
                continue
            first = call.args[0] if call.args else None
            if (
                isinstance(first, ast.Constant)
                and isinstance(first.value, str)
                and first.value.startswith("consilium_")
            ):
                labels = {word.arg for word in call.keywords} - {"amount", "value", None}
                yield f"services/consilium/{source.name}:{call.lineno}", call, first.value, labels


def test_every_row_is_written_somewhere():
    written = {name for _, _, name, _ in writes()}
    never = sorted(BY_NAME.keys() - written)
    assert not never, (
        f"declared and never written; count them where they are known, or delete the rows: {never}"
    )


def test_what_is_written_is_a_row_of_that_kind_with_those_labels():
    wrong = []
    for place, call, name, labels in writes():
        row = BY_NAME.get(name)
        if row is None:
            wrong.append(f"{place}: {name} is no row")
        elif call.func.attr not in METHODS[row.kind]:
            wrong.append(f"{place}: {name} is a {row.kind}, and {call.func.attr} is for others")
        elif labels != set(row.labels):
            wrong.append(f"{place}: {name} has the labels {row.labels}, not {sorted(labels)}")
    assert not wrong, "\n".join(wrong)


def test_gauges_that_say_yes_or_no_are_not_summed():
    assert not [row.name for row in TABLE if row.unit == "bool" and row.mode == "livesum"]
