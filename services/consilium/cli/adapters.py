"""`consilium adapters`: what is stored, where each one lives, and what can be done about it; here or, with --endpoint, on a cluster elsewhere.

Everything goes over the gateway's HTTP: one address and one key. A key needs the scope lora_router.read to look, and lora_router.write to change.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from consilium.cli import adapter_check, adapter_tables, progress
from consilium.cli.answers import document
from consilium.cli.endpoint import Endpoint, add_endpoint, add_output, endpoint_of, folder_of
from consilium.cli.tables import show
from consilium.kernel.errors import ConsiliumError

Json = Mapping[str, Any]

CHANGE_S: Final = 240.0
"""Loading on every replica, and waiting for callers to leave, may take minutes."""
_TIERS: Final = ("vram", "ram", "ssd")
_VERBS: Final = {
    "add": "store an adapter: a folder here, or one of the hub",
    "ls": "show each adapter, and where it is now",
    "show": "show one adapter with its versions",
    "pin": "keep an adapter in a slot (place NAME vram)",
    "place": "say where an adapter is kept: vram, ram or ssd",
    "warm": "load an adapter now",
    "evict": "take an adapter out of slots and memory",
    "switch": "let another stored version answer",
    "rm": "remove an adapter, or one version of it",
    "why": "say who would answer a question, and why",
}
_MUST_BE_SENT: Final = frozenset({"adapter_unknown", "data_damaged", "not_supported"})
"""What the cluster says of content that it does not have whole; the last one is of a cluster that does not know the question."""
_SETTINGS: Final = (
    "placement",
    "with_core",
    "weight",
    "core_weight",
    "domain",
    "threshold",
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("adapters", help="Store, place, switch and remove adapters.")
    verbs = "|".join((*_VERBS, "check"))
    commands = parser.add_subparsers(dest="what", metavar=verbs, required=True)
    made = {verb: commands.add_parser(verb, help=line) for verb, line in _VERBS.items()}
    _add_add(made["add"])
    made["ls"].add_argument("--sums", action="store_true", help="sums of adapters too")
    for verb in ("show", "pin", "place"):
        made[verb].add_argument("name", help="name of the adapter")
    made["place"].add_argument("tier", choices=_TIERS, help="where")
    for verb in ("warm", "evict", "rm"):
        made[verb].add_argument("name", help="NAME, or NAME:VERSION for one version")
    made["warm"].add_argument(
        "--tier", choices=("vram", "ram"), default="vram", help="where to (default: vram, a slot)"
    )
    made["switch"].add_argument("name", help="name of the adapter")
    made["switch"].add_argument("version", help="beginning of the version's hash, 4 or more")
    made["switch"].add_argument(
        "--force", action="store_true", help="also if no engine has tried it, or it failed"
    )
    made["rm"].add_argument(
        "--wait",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long callers that use it may go on (default: 30)",
    )
    made["why"].add_argument("text", help="a question, as a caller would ask it of model 'auto'")
    for command in made.values():
        add_endpoint(command)
        add_output(command)
    adapter_check.add(commands)


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="folder with adapter_model.safetensors and adapter_config.json, org/name[@revision] of the hub, or a voice of the demo model such as demo:captain",
    )
    parser.add_argument("--name", required=True, help="what it is called in model: adapter/NAME")
    parser.add_argument(
        "--force",
        action="store_true",
        help="store it although it fits no engine that runs now, and let it answer although none has tried it",
    )
    parser.add_argument("--placement", choices=_TIERS, help="where it is kept (default: ram)")
    parser.add_argument("--domain", help="what it is for, in words")
    parser.add_argument("--example", action="append", help="a question that it should answer")
    parser.add_argument("--trigger", action="append", help="a text in a question that calls it")
    parser.add_argument("--threshold", type=float, help="least likeness to answer by meaning")
    parser.add_argument("--with-core", metavar="NAME", help="adapter that is always added to it")
    parser.add_argument("--weight", type=float, help="factor of its delta (default: 1)")
    parser.add_argument("--core-weight", type=float, help="factor of the core's (default: 1)")
    parser.add_argument(
        "--isolated", action="store_true", default=None, help="never add it to another one"
    )
    parser.add_argument("--executor", action="append", help="an executor that may hold it")


def run(args: argparse.Namespace) -> int:
    """Do what was asked. Returns 0; `check` returns 1 for an adapter that it refuses."""
    runs = {
        "check": adapter_check.run,
        "add": _add,
        "ls": _list,
        "show": _show,
        "rm": _remove,
        "why": _why,
    }
    return runs.get(args.what, _change)(args)


def _add(args: argparse.Namespace) -> int:
    from consilium.cli import adapter_upload
    from consilium.lora_router.incoming import check_name

    check_name(args.name)
    endpoint = endpoint_of(args)
    with progress.shown(args.name) as report:
        folder, said = _folder(args, report), _said(args)
        stored = _taken_again(endpoint, folder, said)
        is_new = not stored
        if is_new:
            stored = str(adapter_upload.send(endpoint, folder, said, report)["stored"])
    adapter: Json = document(endpoint, _path(args.name))
    if args.output == "json":
        return _as_json(adapter)
    version = next(each for each in adapter["versions"] if each["sha"] == stored)
    told = f"{adapter['name']}:{version['sha'][: adapter_tables.SHOWN]}"
    done = "Stored" if is_new else "Stored before, and its files are whole:"
    print(f"{done} {told}: {adapter_tables.size(version['size_bytes'])}, rank {version['rank']}.")
    for remark in version["remarks"]:
        print(f"remark: {remark}")
    print(_next(adapter, version))
    return 0


def _folder(args: argparse.Namespace, report: Any) -> Path:
    """Return the folder to send, after its header was read: what is wrong with it is told before anything is sent."""
    from consilium.lora_router import adapter_files, sources

    path = sources.from_root(args.source, Path())
    folder = sources.fetched(path, folder_of(args).models, report)
    adapter_files.read(folder)
    return folder


def _taken_again(endpoint: Endpoint, folder: Path, said: Mapping[str, object]) -> str:
    """Return the hash of content that the name has already, after the cluster has hashed its files and taken them as if they had come again; "" = they must be sent."""
    from consilium.cli.adapter_upload import TAKE_S
    from consilium.lora_router import adapter_files

    name, sha = str(said["name"]), adapter_files.content_sha(folder)
    try:
        versions: Any = document(endpoint, _path(name))["versions"]
        if all(version["sha"] != sha or version["proof"] == "damaged" for version in versions):
            return ""
        path = f"adapters/_known/{sha}"
        document(endpoint, path, method="POST", body=said, timeout_s=TAKE_S)
    except ConsiliumError as err:
        if err.code not in _MUST_BE_SENT:
            raise
        return ""
    return sha


def _said(args: argparse.Namespace) -> dict[str, object]:
    said = {key: getattr(args, key) for key in _SETTINGS}
    said |= {
        "isolated": args.isolated,
        "examples": args.example,
        "triggers": args.trigger,
        "executors": args.executor,
    }
    return {
        "name": args.name,
        "force": args.force,
        **{key: value for key, value in said.items() if value is not None},
    }


def _next(adapter: Json, version: Json) -> str:
    """Return the sentence for what comes next."""
    name, sha = adapter["name"], version["sha"]
    if adapter["current"] == sha and version["proof"] == "ok":
        return f"It answers as adapter/{name}."
    switch = f"consilium adapters switch {name} {sha[: adapter_tables.SHOWN]}"
    if not version["fits"]:
        return "No executor that runs now fits it: a remark says why, and where there is none, no engine has slots for adapters (engine.lora: {slots: auto} in the configuration, then 'consilium down' and 'consilium up')."
    if adapter["current"] and adapter["current"] != sha:
        return f"The version before answers until this one was tried and every replica has it; 'consilium adapters show {name}' shows when. '{switch} --force' does not wait for the trial."
    if adapter["current"] == sha:
        return f"It answers as adapter/{name} as soon as an idle engine has tried it, or now with '{switch} --force'."
    return f"An idle engine will try it, then it answers as adapter/{name}. '{switch} --force' does not wait."


def _list(args: argparse.Namespace) -> int:
    found = document(endpoint_of(args), "adapters?sums=true" if args.sums else "adapters")
    if args.output == "json":
        return _as_json(found)
    rows: Any = found["adapters"]
    if not rows:
        print("No adapters. 'consilium adapters add PATH --name NAME' stores one.")
        return 0
    show(adapter_tables.adapters(rows, time.time()))
    for why in filter(None, map(adapter_tables.left_out, rows)):
        print(f"warning: {why}")
    stored, quota = int(str(found["stored_bytes"])), int(str(found["quota_bytes"]))
    print(f"{adapter_tables.size(stored)} of {adapter_tables.size(quota)} in the store")
    return 0


def _show(args: argparse.Namespace) -> int:
    found = document(endpoint_of(args), _path(args.name))
    if args.output == "json":
        return _as_json(found)
    for line in adapter_tables.details(found):
        print(line)
    show(adapter_tables.versions(found, time.time()))
    return 0


def _remove(args: argparse.Namespace) -> int:
    path = f"{_path(args.name)}?wait_s={args.wait:g}"
    found = document(endpoint_of(args), path, method="DELETE", timeout_s=args.wait + CHANGE_S)
    if args.output == "json":
        return _as_json(found)
    gone: Any = found["removed"]
    print(f"Removed {', '.join(gone)}; no slot holds {'it' if len(gone) == 1 else 'them'}.")
    return 0


def _change(args: argparse.Namespace) -> int:
    """Place, warm, evict, switch: one POST each."""
    verb = "place" if args.what == "pin" else args.what
    bodies: dict[str, dict[str, object]] = {
        "pin": {"placement": "vram"},
        "place": {"placement": getattr(args, "tier", "")},
        "warm": {"tier": getattr(args, "tier", "")},
        "evict": {},
        "switch": {"sha": getattr(args, "version", ""), "force": getattr(args, "force", False)},
    }
    found = _post(endpoint_of(args), f"{_path(args.name)}/{verb}", bodies[args.what])
    if args.output == "json":
        return _as_json(found)
    if "residences" in found:
        residences: Any = found["residences"]
        print(f"{args.name} is now in: {adapter_tables.places(residences)}.")
    elif verb == "switch":
        current = str(found["current"])[: adapter_tables.SHOWN]
        print(f"{args.name}:{current} answers now.")
    else:
        print(f"{args.name} is kept in {found['placement']}.")
    return 0


def _why(args: argparse.Namespace) -> int:
    found = _post(endpoint_of(args), "routing", {"text": args.text})
    if args.output == "json":
        return _as_json(found)
    who = f"adapter/{found['adapter']}" if found["adapter"] else "the plain model"
    print(f"{who} would answer ({found['by']}): {found['reason']}")
    candidates: Any = found["candidates"]
    if candidates:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for head in ("adapter", "likeness", "needed", "nearest text"):
            table.add_column(head, overflow="fold")
        for one in candidates:
            table.add_row(
                one["name"],
                f"{one['score']:.3f}",
                f"{one['threshold']:.3f}",
                one.get("nearest", ""),
            )
        show(table)
    return 0


def _post(endpoint: Endpoint, path: str, body: Mapping[str, object]) -> Json:
    return document(endpoint, path, method="POST", body=body, timeout_s=CHANGE_S)


def _path(name: str) -> str:
    if not name or "/" in name:
        raise ConsiliumError(
            "invalid_request", field="name", reason=f"{name!r} is no adapter's name"
        )
    return f"adapters/{quote(name, safe=':')}"


def _as_json(found: Json) -> int:
    json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
    print()
    return 0
