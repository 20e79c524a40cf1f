"""`consilium why ID`: the receipt of an answer as a timeline, with every decision."""

from __future__ import annotations

import argparse
import json

from consilium.cli.answers import document
from consilium.cli.endpoint import Endpoint, add_endpoint, add_output, endpoint_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "why", help="Show the receipt of an answer: what was done, when, and why."
    )
    parser.add_argument(
        "id", help="receipt id, from the header x-consilium-receipt or from 'chat --why'"
    )
    add_endpoint(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print one receipt."""
    return show(endpoint_of(args), args.id, as_json=args.output == "json")


def show(endpoint: Endpoint, receipt_id: str, *, as_json: bool = False) -> int:
    """Fetch and print a receipt. Raises ConsiliumError(receipt_unknown | upstream_down | unauthenticated)."""
    receipt = document(endpoint, f"receipts/{receipt_id}")
    if as_json:
        print(json.dumps(receipt, indent=2, ensure_ascii=False))
        return 0
    from consilium.gateway.receipt import timeline

    print(timeline(receipt))
    return 0
