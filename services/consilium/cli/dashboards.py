"""`consilium dashboards export DIR`: what Grafana and Prometheus need to show this cluster and to warn of it, as files.

Knows how both want their files. Does not know what the dashboards and rules say (gpu_metrics/boards.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from consilium.cli.app import EXIT_FAILURE, EXIT_USAGE, complain
from consilium.cli.endpoint import add_state, folder_of
from consilium.gpu_metrics import boards
from consilium.kernel.errors import ConsiliumError

LIST: Final = ".consilium-dashboards.json"
"""File in DIR that says which files an export wrote, and their sums: what differs from it is somebody else's."""
PROMETHEUS: Final = "http://127.0.0.1:9095"
"""Where Prometheus is told to listen: its usual port is that of our own page."""
_PAGE: Final = "http://127.0.0.1:9090/metrics"
"""Where the page of a cluster is, unless another was asked for or its port was taken."""
_SHOWN: Final = 5


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Write dashboards for Grafana, and rules, alerts and a configuration for Prometheus."
    parser = subparsers.add_parser("dashboards", help=text, description=text)
    commands = parser.add_subparsers(dest="what", metavar="export", required=True)
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("dir", metavar="DIR", help="folder to write to; it is made if need be")
    export.add_argument(
        "--page",
        action="append",
        metavar="URL",
        help="a page of metrics that Prometheus is to read, several times for several machines (default: that of the cluster of this machine)",
    )
    export.add_argument(
        "--prometheus",
        metavar="URL",
        default=PROMETHEUS,
        help=f"where Grafana finds Prometheus (default {PROMETHEUS})",
    )
    export.add_argument(
        "--force",
        action="store_true",
        help="also replace files that no export wrote, or that were changed since",
    )
    add_state(export)


def run(args: argparse.Namespace) -> int:
    """Write the files and say what to do with them. Returns 1 if there are files of others in the way, 2 for a URL that is none."""
    for url in (*(args.page or ()), args.prometheus):
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            complain(f"{url!r} is no address. Write it as http://HOST:PORT")
            return EXIT_USAGE
    pages, known = _pages(args)
    folder = Path(args.dir).expanduser().resolve()
    wanted = contents(folder, pages, args.prometheus)
    try:
        foreign = [] if args.force else foreign_files(folder, wanted)
        if foreign:
            more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
            complain(
                f"{folder} has files that no export wrote, or that were changed since: {', '.join(foreign[:_SHOWN])}{more}.",
                "Nothing was written. Name another folder, or replace them with --force.",
            )
            return EXIT_FAILURE
        write(folder, wanted)
    except OSError as err:
        complain(
            f"{err.filename or folder} cannot be written: {err.strerror}.",
            "Name a folder that you may write to, on a disk with room.",
        )
        return EXIT_FAILURE
    _say(folder, pages, args.prometheus, known=known)
    return 0


def contents(folder: Path, pages: list[str], prometheus: str) -> dict[str, str]:
    """Return path below the folder -> text of each file.

    folder      where they will be: Grafana wants to know it
    pages       URLs of the pages that Prometheus is to read
    prometheus  where Grafana finds Prometheus
    """
    found = {f"grafana/dashboards/{name}": text for name, text in boards.dashboards().items()}
    found |= {f"prometheus/rules/{name}": text for name, text in boards.rules().items()}
    provisioning = "grafana/provisioning"
    found[f"{provisioning}/dashboards/consilium.yaml"] = _yaml(
        "Grafana: where the dashboards of Consilium lie.",
        {
            "apiVersion": 1,
            "providers": [
                {
                    "name": "consilium",
                    "folder": "Consilium",
                    "type": "file",
                    "disableDeletion": True,
                    "allowUiUpdates": False,
                    "options": {"path": str(folder / "grafana" / "dashboards")},
                }
            ],
        },
    )
    found[f"{provisioning}/datasources/consilium.yaml"] = _yaml(
        "Grafana: where Prometheus is.",
        {
            "apiVersion": 1,
            "datasources": [
                {
                    "name": "Prometheus",
                    "uid": "consilium-prometheus",
                    "type": "prometheus",
                    "access": "proxy",
                    "url": prometheus,
                    "isDefault": True,
                    "jsonData": {"timeInterval": "15s", "httpMethod": "POST"},
                }
            ],
        },
    )
    found["prometheus/prometheus.yml"] = _yaml(
        "Prometheus: reads the pages of Consilium and watches its rules. The rules ask for the job by this name.",
        {
            "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
            "rule_files": ["rules/*.yaml"],
            "scrape_configs": [_scrape(pages)] if _is_plain(pages) else _scrapes(pages),
        },
    )
    return found


def foreign_files(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Return those of the wanted files that are there and were not written by an export, or were changed since."""
    sums = _written(folder)
    return [
        name
        for name, text in wanted.items()
        if (path := folder / name).is_symlink()
        or (path.exists() and not (path.is_file() and _sum(path) in {sums.get(name), _of(text)}))
    ]


def write(folder: Path, wanted: Mapping[str, str]) -> None:
    """Write the files, and take away those that an earlier export wrote, that nobody changed, and that there are no more."""
    before = _written(folder)
    for name, text in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        path.write_text(text, encoding="utf-8")
    for name in before.keys() - wanted.keys():
        path = folder / name
        if path.is_file() and _sum(path) == before[name]:
            path.unlink()
    sums = {name: _of(text) for name, text in sorted(wanted.items())}
    (folder / LIST).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def _pages(args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return the pages to read, and whether they are known: named, or of a cluster that was started here."""
    if args.page:
        return list(args.page), True
    try:
        cluster = folder_of(args).read_cluster()
    except ConsiliumError:
        cluster = None
    address = "" if cluster is None else cluster.addresses.get("metrics", "")
    return [address or _PAGE], bool(address)


def _is_plain(pages: list[str]) -> bool:
    """Return whether one job has room for all: the same scheme and path."""
    return len({(urlsplit(url).scheme, urlsplit(url).path or "/metrics") for url in pages}) == 1


def _scrape(pages: list[str]) -> dict[str, Any]:
    first = urlsplit(pages[0])
    path = first.path if first.path not in {"", "/"} else "/metrics"
    return {
        "job_name": boards.JOB,
        "scheme": first.scheme,
        "metrics_path": path,
        "honor_labels": True,
        "static_configs": [{"targets": [urlsplit(url).netloc for url in pages]}],
    }


def _scrapes(pages: list[str]) -> list[dict[str, Any]]:
    """Return a job for each page: names of jobs must differ, and the label is what the rules ask for."""
    return [
        _scrape([url])
        | {
            "job_name": f"{boards.JOB}-{number}",
            "relabel_configs": [{"target_label": "job", "replacement": boards.JOB}],
        }
        for number, url in enumerate(pages, 1)
    ]


def _yaml(comment: str, tree: Mapping[str, Any]) -> str:
    return f"# {comment}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}"


def _written(folder: Path) -> dict[str, str]:
    try:
        told = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {str(name): str(one) for name, one in told.items() if _stays_inside(str(name))}


def _stays_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _say(folder: Path, pages: list[str], prometheus: str, *, known: bool) -> None:
    shown = ", ".join(path.removesuffix(".json") for path in boards.dashboards())
    print(f"Written to {folder}: {shown} for Grafana; rules and alerts for Prometheus.")
    if not known:
        print(
            f"No cluster was started here, so Prometheus will read {pages[0]}. 'consilium status' shows the address of a running one; give it with --page."
        )
    listen = urlsplit(prometheus).netloc
    home = shlex.quote(str(folder / "grafana" / "dashboards" / boards.HOME))
    print()
    print("Prometheus:")
    print(
        f"  prometheus --config.file={shlex.quote(str(folder / 'prometheus' / 'prometheus.yml'))} --web.listen-address={listen}"
    )
    print("Grafana, which then opens on Home:")
    print(
        f"  GF_PATHS_PROVISIONING={shlex.quote(str(folder / 'grafana' / 'provisioning'))} GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH={home} grafana server --homepath /usr/share/grafana"
    )
    print(
        "A Prometheus of your own: add the job and the line rule_files of prometheus.yml to its configuration."
    )
