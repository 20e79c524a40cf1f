"""`consilium keys create | list | revoke`: API keys, in the Redis of the cluster on this machine."""

from __future__ import annotations

import argparse
import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from consilium.cli.app import EXIT_NOT_FOUND, complain
from consilium.cli.endpoint import add_output, add_state, folder_of, running

if TYPE_CHECKING:
    from consilium.gateway.keys import KeyRecord

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SPAN: Final = re.compile(r"(\d+)([smhdw])")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("keys", help="Make, list and revoke API keys.")
    commands = parser.add_subparsers(dest="what", metavar="create|list|revoke", required=True)
    create = commands.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--name", required=True, type=_name, help="whose key it is")
    create.add_argument(
        "--scopes",
        nargs="+",
        type=_scopes,
        default=[["generate"]],
        metavar="SCOPE",
        help="what it may do: generate, read, admin (default: generate)",
    )
    create.add_argument(
        "--tenant",
        default="home",
        type=_tenant,
        help="keys of one tenant share a prefix cache, those of two never do (default: home)",
    )
    create.add_argument(
        "--rpm", type=_count, default=0, metavar="N", help="requests per minute (default: no limit)"
    )
    create.add_argument(
        "--tpm", type=_count, default=0, metavar="N", help="tokens per minute (default: no limit)"
    )
    create.add_argument(
        "--expires",
        type=span_s,
        metavar="SPAN",
        help="lifetime, such as 12h, 30d or 8w (default: for ever)",
    )
    listing = commands.add_parser("list", help="show the keys, never their secrets")
    revoke = commands.add_parser("revoke", help="close a key at once")
    revoke.add_argument("id", help="the 12 digits between the underscores, or the whole key")
    for command in (create, listing, revoke):
        add_state(command)
        add_output(command)


def run(args: argparse.Namespace) -> int:
    """Talk to the store of keys."""
    return {"create": _create, "list": _list, "revoke": _revoke}[args.what](args)


def span_s(text: str) -> float:
    """Return the seconds of 90s, 15m, 12h, 30d or 8w."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        msg = f"{text!r} is not a span; write 12h, 30d or 8w"
        raise argparse.ArgumentTypeError(msg)
    return float(found[1]) * _UNITS[found[2]]


def _scopes(text: str) -> list[str]:
    from consilium.gateway.keys import SCOPES

    found = [scope for scope in text.split(",") if scope]
    for scope in found:
        if scope not in SCOPES:
            msg = f"there is no scope {scope!r}; there are {', '.join(sorted(SCOPES))}"
            raise argparse.ArgumentTypeError(msg)
    return found


def _tenant(text: str) -> str:
    if not _TENANT.fullmatch(text):
        msg = (
            f"{text!r} is no name of a tenant: write up to 63 of a-z, 0-9, dot, dash and underscore"
        )
        raise argparse.ArgumentTypeError(msg)
    return text


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        msg = "a key needs a name by which you will know it again"
        raise argparse.ArgumentTypeError(msg)
    return text.strip()


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        msg = f"{text!r} is not a number above 0; leave it out for no limit, and 'consilium keys revoke ID' closes a key"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _create(args: argparse.Namespace) -> int:
    from consilium.gateway import keys
    from consilium.supervisor.gateway_link import pepper_of, with_keys

    folder = folder_of(args)
    cluster = running(folder)
    scopes = frozenset(scope for word in args.scopes for scope in word)
    text, record = keys.mint(
        pepper_of(folder),
        name=args.name,
        now=time.time(),
        scopes=scopes,
        tenant=args.tenant,
        rpm=args.rpm,
        tpm=args.tpm,
        lifetime_s=args.expires,
    )
    with_keys(cluster.addresses["redis"], cluster.redis_prefix, lambda store: store.put(record))
    if args.output == "json":
        print(json.dumps({"key": text, **_row(record)}))
    else:
        print(text)
        limits = [
            f"{count} {unit} per minute"
            for count, unit in ((record.rpm, "requests"), (record.tpm, "tokens"))
            if count
        ]
        end = f"until {_when(record.expires)} UTC" if record.expires else "without an end"
        print(
            f"This is shown once. Id {record.id}, name {record.name}, scopes {', '.join(sorted(record.scopes))}, {' and '.join(limits) or 'no limits'}, {end}."
        )
    return 0


def _list(args: argparse.Namespace) -> int:
    from consilium.supervisor.gateway_link import with_keys

    cluster = running(folder_of(args))
    rows = [
        _row(record)
        for record in with_keys(
            cluster.addresses["redis"], cluster.redis_prefix, lambda store: store.list()
        )
    ]
    if args.output == "json":
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "id",
        "name",
        "scopes",
        "tenant",
        "rpm",
        "tpm",
        "made",
        "ends",
        "state",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for row in rows:
        table.add_row(
            *(str(row[name]) for name in ("id", "name", "scopes", "tenant")),
            *(str(row[name] or "") for name in ("rpm", "tpm")),
            *(str(row[name] or "") for name in ("created", "expires", "state")),
        )
    Console().print(table)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from consilium.gateway import keys
    from consilium.supervisor.gateway_link import with_keys

    cluster = running(folder_of(args))
    whole = keys.parse(args.id)
    key_id = whole.id if whole is not None else args.id
    if not with_keys(
        cluster.addresses["redis"],
        cluster.redis_prefix,
        lambda store: store.revoke(key_id, time.time()),
    ):
        complain(f"There is no key {key_id!r}.", "'consilium keys list' shows the ids.")
        return EXIT_NOT_FOUND
    print(json.dumps({"revoked": key_id}) if args.output == "json" else f"Revoked {key_id}.")
    return 0


def _row(record: KeyRecord) -> dict[str, object]:
    """Return what may be shown of a key."""
    return {
        "id": record.id,
        "name": record.name,
        "scopes": ",".join(sorted(record.scopes)),
        "tenant": record.tenant,
        "rpm": record.rpm,
        "tpm": record.tpm,
        "created": _when(record.created),
        "expires": _when(record.expires) if record.expires else None,
        "state": record.refusal(time.time()) or "good",
    }


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
