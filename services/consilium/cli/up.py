"""`consilium up`: check, start everything, show it coming up, and return when the core has answered.

What it starts is one process, the supervisor, which starts the rest. Ctrl-C or a failed part while starting ends exactly what was started.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from consilium.cli import cards_here, config_tree, preflight, preflight_adapters
from consilium.cli.app import complain
from consilium.cli.endpoint import add_state, folder_of
from consilium.cli.status import down_lines
from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.config import default_state, dump
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.origins import origins_of
from consilium.kernel.ports import Ports
from consilium.kernel.private_file import write_private
from consilium.kernel.process import child_environment
from consilium.kernel.rooms import Room
from consilium.supervisor import commands, processes
from consilium.supervisor.factories import derive, own_redis_url
from consilium.supervisor.haproxy import write_start_script
from consilium.supervisor.parts import known_rooms, services
from consilium.supervisor.state_folder import Cluster, Pid, StateFolder

WAIT_S: Final = 1800.0
_POLL_S: Final = 0.05
UP: Final = frozenset({"up", "degraded"})
"""Phases in which a cluster answers."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "up",
        help="Start the cluster and wait until it answers.",
        description="Start the cluster and wait until it answers.",
    )
    config_tree.add_config_flags(parser)
    add_state(parser)
    parser.add_argument(
        "--foreground", action="store_true", help="stay until Ctrl-C, then stop the cluster"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=WAIT_S,
        metavar="SECONDS",
        help=f"give up, and undo, after this long (default {WAIT_S:.0f})",
    )


def run(args: argparse.Namespace) -> int:
    """Start the cluster. Returns 0 when the core has answered, else the exit code of what went wrong."""
    begun = time.time()
    preflight.check_python()
    loaded = config_tree.load_tree(args)
    folder = folder_of(args)
    folder.make()
    with preflight.check_alone(
        folder
    ) as lock:  # ours until the supervisor has it: two starts at once never write the same files
        resolved = _checked(
            config_tree.self_contained(loaded.value, config_tree.beside(args)), folder
        )
        folder.make_secrets()
        rooms = known_rooms()
        ports, claims = preflight.allot_ports(
            resolved, rooms, lambda line: print(line, file=sys.stderr)
        )
        with claims:
            wanted = _with_addresses(folder, resolved, rooms, ports)
            held = (lock.fileno(), *claims.descriptors())
            supervisor = _launch(folder, wanted, ports, begun, held)
    try:
        cluster = _watch(folder, supervisor, args.wait)
    except KeyboardInterrupt:
        ended = _undo(folder, supervisor)
        raise KeyboardInterrupt(f"the start was undone, {ended} processes ended") from None
    if cluster.phase not in UP:
        return _failed(folder, supervisor, cluster)
    if args.foreground:
        return _stay(folder, supervisor, lambda: _tell(cluster, time.time() - begun))
    _tell(cluster, time.time() - begun)
    return 0


def _checked(
    wanted: config_tree.ConsiliumConfig, folder: StateFolder
) -> config_tree.ConsiliumConfig:
    """Make all checks that need nothing started. What the last run left is ended only once it is known that this start is not refused for a mistake."""
    preflight.check_disk(folder.root)
    preflight.check_model(wanted)
    preflight.check_keys(wanted, lambda line: print(line, file=sys.stderr))
    preflight.end_leftovers(folder, lambda line: print(line, flush=True))
    cards, why_none = cards_here.read()
    preflight.check_gpus(wanted, cards, why_none, lambda line: print(line, file=sys.stderr))
    preflight.check_fit(wanted, folder, cards, lambda line: print(line, file=sys.stderr))
    preflight_adapters.check_adapters(wanted, folder, lambda line: print(line, file=sys.stderr))
    for sentence in wanted.slots_by_adapters().values():
        print(f"{sentence}.", file=sys.stderr)
    preflight.check_redis(wanted)
    return wanted


def _with_addresses(
    folder: StateFolder, wanted: config_tree.ConsiliumConfig, rooms: tuple[Room, ...], ports: Ports
) -> dict[str, Any]:
    """Return the resolved tree: what was configured, with every address of this cluster."""
    secret = folder.secret.read_text(encoding="ascii")
    url = wanted.redis.address() or own_redis_url(secret, ports["redis"])
    resolved = dump(wanted, masked=False)
    resolved["gateway"] |= {"port": ports["http"], "grpc_port": ports["grpc"]}
    resolved["metrics"]["port"] = ports["metrics"]
    resolved["redis"]["url"] = url
    shown = _reached_at(wanted.gateway.host)
    gateway = {
        "grpc": f"{shown}:{ports['grpc']}",
        "http": f"http://{shown}:{ports['http']}",
        "metrics": f"http://{_reached_at(wanted.metrics.host)}:{ports['metrics']}",
    }
    resolved["services"] = {"gateway": gateway, **services(rooms, ports)}
    resolved["state"] = str(folder.root)
    return resolved


def _launch(
    folder: StateFolder,
    resolved: dict[str, Any],
    ports: Ports,
    begun: float,
    held: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    """Write config.json and cluster.json, then start the supervisor, detached from this terminal.

    held  descriptors that it inherits: the lock of the state folder, and the promises of the ports
    """
    write_private(folder.config, json.dumps(resolved, indent=1) + "\n")
    at = resolved["services"]["gateway"]
    cluster = Cluster(
        state=str(folder.root),
        phase="starting",
        mark=secrets.token_hex(8),
        model=resolved["model"],
        started=begun,
        boot=processes.boot_id(),
        supervisor=Pid(0, 0.0),
        addresses={
            "openai": f"{at['http']}/v1",
            "http": at["http"],
            "grpc": at["grpc"],
            "metrics": f"http://{_reached_at(resolved['metrics']['host'])}:{ports['metrics']}/metrics",
            "redis": resolved["redis"]["url"],
            "ray": f"127.0.0.1:{ports['ray']}",
        },
        ports=dict(ports),
        key=known_key(folder),
        redis_prefix=resolved["redis"]["prefix"],
    )
    folder.write_cluster(cluster)
    for file in (folder.draining, folder.closing):
        file.unlink(missing_ok=True)
    for old in folder.metrics.iterdir():
        old.unlink(missing_ok=True)  # figures of processes of the last run
    token = derive(folder.secret.read_text(encoding="ascii"), f"ray {cluster.mark}")
    variables = commands.cluster_environment(
        ports=ports,
        temp=folder.ray_temp,
        sockets=folder.engine_sockets,
        token=token,
        mark=cluster.mark,
        metrics=folder.metrics,
    )
    face = resolved["gateway"]
    variables |= write_start_script(folder.root, origins_of(face["cors_origins"], face["host"]))
    with folder.log("supervisor").open("ab") as log:
        return subprocess.Popen(  # noqa: S603  our own module
            (
                sys.executable,
                "-m",
                "consilium.supervisor.app",
                "--state",
                str(folder.root),
                "--lock-fd",
                str(held[0]),
            ),
            pass_fds=held,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder.root,
            env=child_environment(variables),
        )


def _reached_at(host: str) -> str:
    """Return the address at which this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104  compared, not bound


def known_key(folder: StateFolder) -> str:
    """Return the local key of the last run, which is good for as long as Redis knows it."""
    try:
        last = folder.read_cluster()
    except ConsiliumError:
        return ""
    return last.key if last is not None else ""


def _watch(folder: StateFolder, supervisor: subprocess.Popen[bytes], wait_s: float) -> Cluster:
    """Show the parts until they are up, one is given up, or the time is over. Return the last cluster.json."""
    from rich.console import Console
    from rich.live import Live

    from consilium.cli import tables

    until = time.monotonic() + wait_s
    console = Console()
    seen: dict[str, str] = {}
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            cluster = folder.read_cluster()
            if cluster is None:
                raise ConsiliumError(
                    "state_damaged",
                    path=str(folder.cluster),
                    reason="it disappeared while the cluster was starting",
                )
            if console.is_terminal:
                live.update(tables.starting(cluster, time.time()))
            else:
                _say_changes(cluster, seen)
            if (
                cluster.phase in {*UP, "failed"}
                or (cluster.failure is not None)
                or supervisor.poll() is not None
                or time.monotonic() > until
            ):
                return cluster
            time.sleep(_POLL_S)


def _say_changes(cluster: Cluster, seen: dict[str, str]) -> None:
    """Print one line for each part that changed its state, where there is no terminal to draw on."""
    for name, part in cluster.parts.items():
        if seen.get(name) != part.state and part.state != "waiting":
            print(
                f"{part.since - cluster.started:6.1f} s  {name:10} {part.state}"
                + (f"  {part.detail}" if part.detail else ""),
                flush=True,
            )
        seen[name] = part.state


def _failed(folder: StateFolder, supervisor: subprocess.Popen[bytes], cluster: Cluster) -> int:
    """Undo the start and say why."""
    ended = supervisor.poll() is not None  # by itself; else only our patience has
    _undo(folder, supervisor)
    last = folder.read_cluster() or cluster
    failure = last.failure or cluster.failure
    if failure is not None:
        complain(failure.sentence, failure.next_step)
        return BY_CODE[failure.code].exit_code
    late = [name for name, part in cluster.parts.items() if part.state != "up"]
    reason = (
        "the supervisor ended; see 'consilium logs supervisor'"
        if ended
        else "it was not ready in time (--wait)"
    )
    raise ConsiliumError("part_failed", name=", ".join(late) or "the supervisor", reason=reason)


def _undo(folder: StateFolder, supervisor: subprocess.Popen[bytes]) -> int:
    """End what this start has started. A second Ctrl-C changes nothing: the undoing is finished first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cluster = folder.read_cluster()
        from consilium.supervisor.ending import SLACK_S, ending_seconds, family_of, stop

        count = len(family_of(cluster)) if cluster is not None else 0
        if supervisor.poll() is None:
            supervisor.terminate()
        try:
            supervisor.wait(ending_seconds(folder, cluster) if cluster is not None else SLACK_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait(5)
        cluster = folder.read_cluster()
        if cluster is not None:
            stop(folder, cluster, now=True)
        return count
    finally:
        signal.signal(signal.SIGINT, before)


def _stay(
    folder: StateFolder, supervisor: subprocess.Popen[bytes], tell: Callable[[], None]
) -> int:
    """Tell what runs, and wait until the supervisor ends or Ctrl-C is pressed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tell()
        print("Running. Ctrl-C stops the cluster.", flush=True)
        code = supervisor.wait()
    except KeyboardInterrupt:
        ended = _undo(folder, supervisor)
        print(f"Stopped: {ended} processes.")
        return 0
    if code == 0:
        print("The cluster was stopped.")
        return 0
    print(f"The supervisor ended with {code}; see 'consilium logs supervisor'.", file=sys.stderr)
    return code


def _tell(cluster: Cluster, seconds: float) -> None:
    """Print the table, the addresses, a request that works, and the key."""
    from rich.console import Console

    from consilium.cli import tables
    from consilium.supervisor.part_memory import weigh

    console = Console()
    sizes, _ = weigh(cluster)
    console.print(tables.running(cluster, sizes))
    up = "Up" if cluster.phase == "up" else "Up, but degraded,"
    console.print(f"\n{up} in {seconds:.1f} s, model {cluster.model}.\n", highlight=False)
    for line in closing_lines(cluster):
        print(line)
    for line in down_lines(cluster, time.time()):
        print(f"note: {line}", file=sys.stderr)
    for name, state in cluster.executors.items():
        if state != "ready":
            why = (
                "is still starting"
                if state == "starting"
                else "does not answer; 'consilium logs engine' and 'consilium logs gateway' say more"
            )
            print(f"note: the executor {name} {why}.", file=sys.stderr)


def closing_lines(cluster: Cluster) -> list[str]:
    """Return the addresses, the key, and a curl line that works as it stands."""
    openai = cluster.addresses["openai"]
    body = '{"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    return [
        f"OpenAI   {openai}",
        f"gRPC     {cluster.addresses['grpc']}",
        f"metrics  {cluster.addresses['metrics']}",
        f"key      {cluster.key}   (may do everything; for others: consilium keys create --name NAME)",
        "",
        f"curl -s {openai}/chat/completions -H 'Authorization: Bearer {cluster.key}' -H 'Content-Type: application/json' -d '{body}'",
        f'consilium chat "What is the capital of France?"{_elsewhere(cluster)}',
    ]


def _elsewhere(cluster: Cluster) -> str:
    """Return the flag that a command needs to find this cluster; '' in the default folder."""
    return "" if cluster.state == str(default_state()) else f" --state {shlex.quote(cluster.state)}"
