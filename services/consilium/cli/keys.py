"""`consilium keys create | list | show | revoke`: API keys, over HTTP as anybody with an admin key asks for them.

On the machine of the cluster no flags are needed, and a gateway that is down is no obstacle: then the store of keys is asked itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypeVar

from consilium.cli.answers import document
from consilium.cli.app import EXIT_NOT_FOUND, complain
from consilium.cli.endpoint import (
    Endpoint,
    add_endpoint,
    add_output,
    endpoint_of,
    folder_of,
    running,
)
from consilium.gateway import key_requests, keys
from consilium.gateway.config import Gateway
from consilium.kernel import logs
from consilium.kernel.config import added_rooms, environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.rooms import rooms

Row: TypeAlias = Mapping[str, Any]

AGAIN_S: Final = 1.0
_CACHE_S: Final = float(Gateway.model_fields["key_cache_s"].default)
"""What is told of the gateways' memory where none can be asked."""
T = TypeVar("T")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("keys", help="Make, list and revoke API keys.")
    commands = parser.add_subparsers(dest="what", metavar="create|list|show|revoke", required=True)
    create = commands.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--name", required=True, type=_name, help="whose key it is")
    create.add_argument(
        "--scopes",
        nargs="+",
        type=_words,
        default=[["generate"]],
        metavar="SCOPE",
        help="what it may do: generate (and read), read, metrics.read (the figures of the whole cluster), admin (all), or a scope of a room (default: generate). Adapters belong to the whole cluster, not to a tenant: lora_router.read shows what everybody has said of theirs, lora_router.write may change and remove anybody's, and with a trigger answer anybody's 'auto'",
    )
    create.add_argument(
        "--tenant",
        default="home",
        type=_tenant,
        help="keys of one tenant share a prefix cache, those of two never do (default: home)",
    )
    create.add_argument("--owner", default="", help="who it belongs to, for your own records")
    create.add_argument(
        "--rpm",
        type=_count,
        default=0,
        metavar="N",
        help="requests per minute (default: no limit). It is a bucket: --burst may come at once and N come back in a minute, so up to N + burst pass in the first minute",
    )
    create.add_argument(
        "--burst",
        type=_count,
        default=0,
        metavar="N",
        help="requests that may come at once (default: as many as --rpm); 1 spaces them evenly",
    )
    create.add_argument(
        "--tpm",
        type=_count,
        default=0,
        metavar="N",
        help="tokens per minute, prompts and answers (default: no limit). A request first takes what it may use at most and gives back what it did not",
    )
    create.add_argument(
        "--expires",
        type=_span,
        metavar="SPAN",
        help="lifetime, such as 12h, 30d or 8w (default: for ever)",
    )
    listing = commands.add_parser("list", help="show the keys, never their secrets")
    show = commands.add_parser("show", help="show one key")
    revoke = commands.add_parser("revoke", help="close a key at once")
    for command in (show, revoke):
        command.add_argument(
            "id",
            help="the 12 digits between the underscores, the first of them (4 or more) where only one key begins so, or the whole key",
        )
    revoke.add_argument(
        "--wait",
        action="store_true",
        help="try until it is done, also while the store of keys is down, and until no gateway can still hold the key",
    )
    for command in (create, listing, show, revoke):
        add_endpoint(command)
        add_output(command)


def run(args: argparse.Namespace) -> int:
    """Ask the gateway about keys, or where none answers on this machine, their store."""
    return {"create": _create, "list": _list, "show": _show, "revoke": _revoke}[args.what](args)


def span_s(text: str) -> float:
    """Return the seconds of 90s, 15m, 12h, 30d or 8w."""
    seconds = key_requests.span_s(text)
    if seconds is None:
        msg = f"{text!r} is not a span; write 12h, 30d or 8w"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _span(text: str) -> str:
    span_s(text)
    return text.strip().lower()


def _words(text: str) -> list[str]:
    return [scope for scope in text.split(",") if scope]


def _tenant(text: str) -> str:
    try:
        return key_requests.tenant(text)
    except ConsiliumError as err:
        msg = f"{text!r} is no name of a tenant: {err.fields['reason']}"
        raise argparse.ArgumentTypeError(msg) from None


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
    body = {
        "name": args.name,
        "scopes": [scope for words in args.scopes for scope in words],
        "tenant": args.tenant,
        "owner": args.owner,
        "rpm": args.rpm,
        "tpm": args.tpm,
        "burst": args.burst,
        "expires": args.expires,
    }
    made = _asked(
        args,
        lambda endpoint: document(endpoint, "keys", method="POST", body=body),
        lambda store: store.create(body),
    )
    row = _row(made)
    if args.output == "json":
        print(json.dumps({"key": made["key"], **row}))
        return 0
    print(made["key"])
    limits = [
        f"{made[field]} {unit} per minute"
        for field, unit in (("rpm", "requests"), ("tpm", "tokens"))
        if made[field]
    ]
    end = f"until {row['expires']} UTC" if row["expires"] else "without an end"
    print(
        f"This is shown once. Id {made['id']}, name {made['name']}, scopes {', '.join(made['scopes'])}, {' and '.join(limits) or 'no limits'}, {end}."
    )
    return 0


def _list(args: argparse.Namespace) -> int:
    found: Any = _asked(
        args,
        lambda endpoint: document(endpoint, "keys").get("data") or [],
        lambda store: store.list(),
    )
    rows = [_row(row) for row in found]
    if args.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    name = _id(args.id)
    row = _row(
        _asked(
            args, lambda endpoint: document(endpoint, f"keys/{name}"), lambda store: store.get(name)
        )
    )
    if args.output == "json":
        print(json.dumps(row))
    else:
        _print([row])
    return 0


def _revoke(args: argparse.Namespace) -> int:
    name = _id(args.id)
    try:
        row = _revoked_at_last(args, name) if args.wait else _revoked(args, name)
    except ConsiliumError as err:
        if err.code != "key_unknown":
            raise
        complain(f"There is no key {name!r}.", "'consilium keys list' shows the ids.")
        return EXIT_NOT_FOUND
    certain_in_s = int(row.get("certain_in_s") or 0)
    if args.wait and certain_in_s:
        _say(f"Revoked. In {certain_in_s} s no gateway can still hold it; waiting for that.")
        time.sleep(certain_in_s)
        certain_in_s = 0
    if args.output == "json":
        print(json.dumps({"revoked": row["id"], "certain_in_s": certain_in_s}))
    elif args.wait:
        print(f"Revoked {row['id']}, and no gateway lets it in any more.")
    else:
        print(f"Revoked {row['id']}.")
        if certain_in_s:
            _say(
                f"Gateways see that at once. One that cannot reach the store of keys may let it in for {certain_in_s} s more; --wait waits for that."
            )
    return 0


def _revoked(args: argparse.Namespace, name: str) -> Row:
    """Revoke a key and return it. Raises ConsiliumError: key_unknown, key_not_revoked where the store does not answer, and what else the gateway says."""
    try:
        return _asked(
            args,
            lambda endpoint: document(endpoint, f"keys/{name}", method="DELETE"),
            lambda store: store.revoke(name),
        )
    except ConsiliumError as err:
        if err.code != "upstream_down":
            raise
        raise key_requests.not_revoked(name, _CACHE_S, err) from None


def _revoked_at_last(args: argparse.Namespace, name: str) -> Row:
    """Revoke a key, again and again until it is done."""
    was_told = False
    while True:
        try:
            return _revoked(args, name)
        except ConsiliumError as err:
            if not err.row.retry:
                raise
            if not was_told:
                _say(f"Not yet: {err.public()}")
                _say("Trying again every second until it is done; Ctrl-C gives up.")
                was_told = True
        time.sleep(AGAIN_S)


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _asked(
    args: argparse.Namespace, over_http: Callable[[Endpoint], T], here: Callable[[_Local], T]
) -> T:
    """Return what the gateway says; where it does not answer and the cluster is of this machine, what the store says."""
    try:
        return over_http(endpoint_of(args))
    except ConsiliumError as err:
        if err.code != "upstream_down" or args.endpoint or environment_value("CONSILIUM_ENDPOINT"):
            raise
        return here(_Local(args))


class _Local:
    """The store of keys of the cluster on this machine, asked without a gateway. Answers as /v1/keys does."""

    def __init__(self, args: argparse.Namespace) -> None:
        logs.configure("cli")  # what the store says belongs to stderr: stdout is the answer's
        self._folder = folder_of(args)
        self._cluster = running(self._folder)

    def create(self, body: Mapping[str, Any]) -> Row:
        from consilium.supervisor.gateway_link import pepper_of

        now = time.time()
        wanted = key_requests.wanted(body, key_requests.scopes_of(rooms(added_rooms())), now)
        text, record = keys.mint(pepper_of(self._folder), now=now, **wanted.fields())
        self._with(lambda store: store.put(record))
        return {**key_requests.shown(record, now, cache_s=_CACHE_S), "key": text}

    def list(self) -> list[Row]:
        now, found = time.time(), self._with(lambda store: store.list())
        return [key_requests.shown(row, now, cache_s=_CACHE_S) for row in found]

    def get(self, name: str) -> Row:
        rows = self.list()
        found = key_requests.chosen(name, (row["id"] for row in rows))
        return next(row for row in rows if row["id"] == found)

    def revoke(self, name: str) -> Row:
        found, now = self.get(name)["id"], time.time()
        self._with(lambda store: store.revoke(found, now))
        return self.get(found)

    def _with(self, action: Callable[[Any], Any]) -> Any:
        from consilium.supervisor.gateway_link import with_keys

        return with_keys(self._cluster.addresses["redis"], self._cluster.redis_prefix, action)


def _id(text: str) -> str:
    whole = keys.parse(text)
    if whole is not None:
        return whole.id
    return key_requests.beginning(text)


def _row(found: Row) -> dict[str, object]:
    """Return a key as the command shows it: scopes in one word, times for people, in UTC."""
    row = {
        name: found[name]
        for name in ("id", "name", "scopes", "tenant", "owner", "rpm", "tpm", "burst")
    }
    row["scopes"] = ",".join(found["scopes"])
    return row | {
        "created": _when(found["created"]),
        "expires": _when(found["expires"]) if found["expires"] else None,
        "state": found["state"],
    }


def _print(rows: list[dict[str, object]]) -> None:
    from rich.table import Table

    from consilium.cli.tables import show

    headed = {
        "id": "id",
        "name": "name",
        "scopes": "scopes",
        "tenant": "tenant",
        "owner": "owner",
        "rpm": "rpm",
        "tpm": "tpm",
        "burst": "burst",
        "created": "made",
        "expires": "ends",
        "state": "state",
    }
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, head in headed.items():
        is_id = name == "id"  # never cut: it is what the other commands ask for
        table.add_column(
            head, no_wrap=is_id, min_width=keys.ID_LENGTH if is_id else None, overflow="fold"
        )
    for row in rows:
        table.add_row(*(str(row[name] or "") for name in headed))
    show(table)


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
