"""The whole of consilium.yaml: every room's section, composed.

Knows which sections there are, and that names in one mean something in another. Does not know what the values do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from pydantic import Field, model_validator

from consilium.embedding.config import EmbeddingView
from consilium.engine.config import EngineView, file_of_key, from_root
from consilium.engine.ports import CORE
from consilium.gateway.config import GatewayView, must_be_known, refuse_unknown_names
from consilium.gpu_metrics.config import GpuMetricsView
from consilium.kernel.config import Loaded, Section, load
from consilium.kernel.config_refusal import WrongValueError
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.yaml_source import value_of
from consilium.lora_router import sources
from consilium.lora_router.config import AdaptersView
from consilium.supervisor.state_folder import StateFolder

FILE: Final = "consilium.yaml"


class Metrics(Section):
    """The metrics page of one machine."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int | None = Field(
        None, ge=1, le=65535, description="Port of the Prometheus page; empty = a free one."
    )


class ConsiliumConfig(AdaptersView, EmbeddingView, GatewayView, EngineView, GpuMetricsView):
    """consilium.yaml."""

    model_config = Section.model_config

    metrics: Metrics = Field(default_factory=Metrics)

    @model_validator(mode="before")
    @classmethod
    def _state_is_no_key(cls, tree: object) -> object:
        if isinstance(tree, Mapping) and "state" in tree:
            reason = "the state folder is not named in a file, because status, down and the other commands would not find it; use --state DIR or CONSILIUM_STATE"
            raise WrongValueError(("state",), reason)
        return tree

    @model_validator(mode="after")
    def _models_are_named(self) -> ConsiliumConfig:
        named = {("model",): self.model} | {
            ("executors", name, "model"): executor.model
            for name, executor in self.executors.items()
        }
        for place, model in named.items():
            if not model.strip():
                raise WrongValueError(
                    place,
                    "the name is empty; write demo, a hub name such as Qwen/Qwen3-8B, or a folder",
                )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> ConsiliumConfig:
        executors = {CORE, *self.executors}
        refuse_unknown_names(self.roles, self.profiles, executors)
        must_be_known(("embedding", "executor"), self.embedding.executor, executors, "executor")
        return self


def parse_settings(pairs: list[str]) -> dict[str, object]:
    """Return dotted key -> value for `--set key=value`; values are YAML. Raises ConsiliumError(config_invalid)."""
    found: dict[str, object] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise ConsiliumError(
                "config_invalid",
                key=f"--set {pair}",
                reason="write key=value, such as engine.max_num_seqs=16",
            )
        try:
            found[key] = value_of(text)
        except yaml.YAMLError as err:
            raise ConsiliumError(
                "config_invalid", key=key, reason=f"{text!r} is not a YAML value"
            ) from err
    return found


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set keys of the configuration."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=Path,
        help=f"configuration file (default: ./{FILE} if there is one)",
    )
    parser.add_argument(
        "--model", metavar="X", help="demo, tiny, tiny-moe, a hub name, or a local folder"
    )
    parser.add_argument("--port", type=int, metavar="N", help="HTTP port")
    parser.add_argument("--grpc-port", type=int, metavar="N", help="gRPC port")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the configuration, such as engine.max_num_seqs=16",
    )


def load_tree(args: argparse.Namespace) -> Loaded[ConsiliumConfig]:
    """Return the tree for the flags of `add_config_flags`. Raises ConsiliumError(config_invalid)."""
    named = {"model": args.model, "gateway.port": args.port, "gateway.grpc_port": args.grpc_port}
    flags = {
        **parse_settings(args.set),
        **{key: value for key, value in named.items() if value is not None},
    }
    return load(ConsiliumConfig, path=file_of(args), flags=flags)


def file_of(args: argparse.Namespace) -> Path | None:
    """Return the configuration file: the one that -c names, else consilium.yaml in the working directory, else none."""
    if args.config is not None:
        return Path(args.config)
    return Path(FILE) if Path(FILE).is_file() else None


def beside(args: argparse.Namespace) -> Path:
    """Return the folder in which the files that the configuration names are looked up first."""
    file = file_of(args)
    return file.parent if file is not None else Path()


def self_contained(tree: ConsiliumConfig, beside: Path) -> ConsiliumConfig:
    """Return the tree as the parts of a cluster read it, in folders of their own: files and folders named from the root, and the frames of roles as text.

    beside  folder of the configuration file: relative names are looked up there first, then in the working directory

    Raises ConsiliumError(config_invalid).
    """
    roles = {
        name: role
        if role.frame_file is None
        else role.model_copy(
            update={
                "frame": _text(f"roles.{name}.frame_file", role.frame_file, beside),
                "frame_file": None,
            }
        )
        for name, role in tree.roles.items()
    }
    adapters = {
        name: adapter.model_copy(update={"path": sources.from_root(adapter.path, beside)})
        for name, adapter in tree.adapters.items()
    }
    named = {"roles": roles, "adapters": adapters, **from_root(tree, beside)}
    return tree.model_copy(update=named)


def resolved(folder: StateFolder) -> ConsiliumConfig:
    """Return the tree that a cluster on this machine runs with, as `up` and `apply` wrote it. Raises ConsiliumError(state_damaged)."""
    try:
        tree = json.loads(folder.config.read_text(encoding="utf-8"))
        known = {name: tree[name] for name in ConsiliumConfig.model_fields if name in tree}
        return ConsiliumConfig.model_validate(known)
    except (OSError, ValueError, TypeError) as err:
        reason = "it is not the configuration of this version"
        raise ConsiliumError(
            "state_damaged", str(err), path=str(folder.config), reason=reason
        ) from err


def _text(key: str, name: str, beside: Path) -> str:
    path = file_of_key(key, name, beside)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as err:
        reason = err.strerror or str(err)
    except UnicodeDecodeError as err:
        reason = f"not UTF-8 text (byte {err.start})"
    raise ConsiliumError("config_invalid", key=key, reason=f"{path} cannot be read: {reason}")
