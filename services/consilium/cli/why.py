"""`consilium why ID`: the receipt of an answer as a timeline, with every decision."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Final

from consilium.cli.chat import failure_of
from consilium.cli.reach import Endpoint, add_endpoint, add_output, endpoint_of
from consilium.kernel.errors import ConsiliumError

BAR: Final = 40


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("why", help="Show the receipt of an answer: what was done, when, and why.")
    parser.add_argument("id", help="receipt id, from the header x-consilium-receipt or from 'chat --why'")
    add_endpoint(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print one receipt."""
    return show(endpoint_of(args), args.id, as_json=args.output == "json")


def show(endpoint: Endpoint, receipt_id: str, *, as_json: bool = False) -> int:
    """Fetch and print a receipt. Raises ConsiliumError(receipt_unknown | upstream_down | unauthenticated)."""
    receipt = fetch(endpoint, receipt_id)
    if as_json:
        print(json.dumps(receipt, indent=2, ensure_ascii=False))
        return 0
    for line in timeline(receipt):
        print(line)
    return 0


def fetch(endpoint: Endpoint, receipt_id: str) -> Mapping[str, object]:
    """Return a receipt as the gateway keeps it."""
    import httpx

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        answer = httpx.get(f"{endpoint.openai}/receipts/{receipt_id}", headers=headers, timeout=10)
    except httpx.HTTPError as err:
        raise ConsiliumError("upstream_down", str(err), name=endpoint.openai, retry_after=1) from err
    if answer.status_code != httpx.codes.OK:
        raise failure_of(answer.status_code, answer.text)
    found = answer.json()
    if not isinstance(found, dict):
        raise ConsiliumError("data_damaged", reason=f"{receipt_id} is not a receipt")
    return found


def timeline(receipt: Mapping[str, object]) -> list[str]:
    """Return the lines of a receipt: stages with a bar each where times are known, then everything else that was decided."""
    timings = receipt.get("timings")
    stages = [(str(name), float(value)) for name, value in timings.items() if isinstance(value, int | float)] if isinstance(timings, Mapping) else []
    lines = [f"receipt {receipt.get('id', '')}"]
    longest = max((value for _, value in stages), default=0.0)
    width = max((len(_label(name)) for name, _ in stages), default=0)
    for name, value in stages:
        bar = "#" * max(1 if value > 0 else 0, round(BAR * value / longest)) if longest else ""
        lines.append(f"  {_label(name):{width}}  {value:10.1f} ms  {bar}".rstrip())
    rest = {name: value for name, value in receipt.items() if name not in {"id", "timings"}}
    lines += _tree(rest, "  ")
    return lines


def _label(name: str) -> str:
    return name.removesuffix("_ms").replace("_", " ")


def _tree(found: Mapping[str, object], indent: str) -> list[str]:
    lines = []
    for name, value in found.items():
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}:")
            lines += _tree(value, indent + "  ")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  - {_inline(item)}" for item in value]
        else:
            lines.append(f"{indent}{name}: {_inline(value)}")
    return lines


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inline(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(_inline(item) for item in value)
    return str(value)
