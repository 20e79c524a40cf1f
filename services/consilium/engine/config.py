"""What the engine room reads of consilium.yaml: model, topology, executors, engine settings.

Knows shapes of the configuration. Does not know whether it fits the machine (topology.py, planner/).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from consilium.engine.ports import CORE
from consilium.kernel.config import LIVE, Section, restarts
from consilium.kernel.config_refusal import WrongValueError, no_such
from consilium.kernel.errors import ConsiliumError
from consilium.planner import lora_settings
from consilium.planner.lora_settings import (
    CACHE_GIB,
    DEFAULT_RANK,
    DEFAULT_WAIT_S,
    READ_S,
    READY_S,
    LoraSettings,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
PoolName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
Device = Literal["auto", "gpu", "cpu"]
Rank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]

BUILT_IN_MODELS: Final = frozenset({"demo", "tiny", "tiny-moe", "tiny-base"})


class Lora(Section):
    """How many adapters (LoRA) an engine holds, and where."""

    slots: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] = Field(
        "auto",
        description="Adapters on the card at once; auto = those with placement vram and 2 more, at least 4. One is never pinned. 0 = none, whatever `adapters` says.",
    )
    max_rank: Rank = Field(
        DEFAULT_RANK,
        description="Largest rank of an adapter; every slot takes memory for this rank, used or not.",
    )
    ram: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Adapters in the engine's memory, those in slots included; empty = twice as many as there are slots.",
    )
    target_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,64}$")], ...] = Field(
        (), description="Modules that have slots, such as q_proj; empty = all that vLLM can serve."
    )
    max_wait_s: float = Field(
        DEFAULT_WAIT_S,
        gt=0,
        le=600,
        description="Longest that a request waits for a slot; then it gets 429 no_free_lora_slot.",
    )
    read_s: float = Field(
        READ_S,
        gt=0,
        le=600,
        description="Longest silence of a disk while the files of an adapter are read; then the read is given up, and whoever waits is told.",
    )
    ready_s: float = Field(
        READY_S,
        gt=0,
        le=3600,
        description="Longest that a start waits for the next adapter with placement vram; then the engine is not ready, and says which one is missing and why.",
    )

    @model_validator(mode="after")
    def _memory_holds_the_slots(self) -> Lora:
        if self.ram is not None and self.slots != "auto" and self.ram < self.slots:
            raise WrongValueError(
                ("ram",),
                f"it is {self.ram}, and the {self.slots} adapters in slots are held in memory too; set it to {self.slots} or more",
            )
        return self


class EngineSettings(Section):
    """Settings of one vLLM engine. `engine:` holds the defaults, `executors.<name>.engine:` overrides single keys."""

    max_model_len: int | None = Field(
        None,
        ge=16,
        description="Context in tokens; empty = what the model was made for, or less if the KV cache is smaller.",
    )
    max_num_seqs: int = Field(64, ge=1, le=4096, description="Requests in one batch.")
    max_num_batched_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens in one step; empty = 8192 on a GPU, and on CPU as many as take half a second, so that nobody's token waits long behind another's prompt.",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0.05, le=0.98, description="Share of the card that the engine may take."
    )
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description="Exact size of the KV cache per rank in GiB; overrides utilisation. On CPU the default is 1.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Type of the weights in memory."
    )
    quantization: str | None = Field(
        None, description="vLLM quantisation method; empty = what the checkpoint says."
    )
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16"] = Field(
        "auto", description="Type of the KV cache."
    )
    prefix_caching: bool = Field(True, description="Reuse the KV of equal beginnings.")
    priority_lanes: bool = Field(
        True,
        description="People before batches in the engine's queue (vLLM's priority scheduling); false = first come, first served.",
    )
    enforce_eager: bool | None = Field(None, description="No CUDA graphs; empty = only on CPU.")
    hf_overrides: dict[str, object] = Field(
        default_factory=dict,
        description="Legal edits of config.json, such as num_experts_per_tok or YaRN.",
    )
    reasoning_parser: str | None = Field(
        None, description="vLLM reasoning parser; empty = by model family, 'none' = off."
    )
    tool_parser: str | None = Field(
        None, description="vLLM tool call parser; empty = by model family, 'none' = off."
    )
    chat_template: str | None = Field(
        None, description="Path of a Jinja template that replaces the model's own."
    )
    cpu_cores: int | None = Field(
        None, ge=1, description="CPU engines: cores per rank; empty = shared evenly."
    )
    lora: Lora | None = Field(
        None,
        description="Slots for adapters; empty = as many as `adapters` needs, none where it names none.",
    )
    adapter_cache_gib: float = Field(
        CACHE_GIB,
        gt=0,
        description="Most that adapters take on a node that does not see their store and fetches them, in one folder for all its engines; those used longest ago go.",
    )
    extra_args: dict[str, object] = Field(
        default_factory=dict,
        description="Further vLLM engine arguments by name, checked against the installed version.",
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment of the engine process, such as NCCL_P2P_DISABLE.",
    )


class LoraOverride(Section):
    """The same keys as `engine.lora`, each optional."""

    slots: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)] | None = None
    max_rank: Rank | None = None
    ram: int | None = Field(None, ge=1, le=100_000)
    target_modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,64}$")], ...] | None = (
        None
    )
    max_wait_s: float | None = Field(None, gt=0, le=600)
    read_s: float | None = Field(None, gt=0, le=600)
    ready_s: float | None = Field(None, gt=0, le=3600)

    def over(self, base: Lora | None) -> Lora:
        """Return `base` with the keys that are set here. Raises WrongValueError if they contradict each other."""
        told = self.model_dump(exclude_none=True)
        return Lora.model_validate({**(base or Lora()).model_dump(exclude_unset=True), **told})


class EngineOverride(Section):
    """The same keys as `engine:`, each optional, but for what holds for a whole node."""

    max_model_len: int | None = Field(None, ge=16)
    max_num_seqs: int | None = Field(None, ge=1, le=4096)
    max_num_batched_tokens: int | None = Field(None, ge=16)
    gpu_memory_utilization: float | None = Field(None, gt=0.05, le=0.98)
    kv_cache_gib: float | None = Field(None, gt=0)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    quantization: str | None = None
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16"] | None = None
    prefix_caching: bool | None = None
    priority_lanes: bool | None = None
    enforce_eager: bool | None = None
    hf_overrides: dict[str, object] | None = None
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    chat_template: str | None = None
    cpu_cores: int | None = Field(None, ge=1)
    lora: LoraOverride | None = None
    extra_args: dict[str, object] | None = None
    env: dict[str, str] | None = None

    def over(self, base: EngineSettings) -> EngineSettings:
        """Return `base` with the keys that are set here."""
        told = self.model_dump(exclude_none=True)
        if self.lora is not None:
            told["lora"] = self.lora.over(base.lora)
        return base.model_copy(update=told)


class Shape(Section):
    """How many cards and nodes one engine takes, and how many copies there are."""

    replicas: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Copies; auto = one per GPU for kind replicas, else 1."
    )
    tensor_parallel: int = Field(1, ge=1, description="Cards that share each layer.")
    pipeline_parallel: int = Field(1, ge=1, description="Stages of layers.")
    nodes: int = Field(1, ge=1, description="Nodes over which one engine is spread.")
    device: Device = Field("auto", description="auto = GPU where there is one, else CPU.")
    pool: PoolName | None = Field(
        None,
        description="Group of nodes that it is placed on: one of the chart's worker groups. Empty = wherever it fits.",
    )


class Topology(Shape):
    """The core: replicas (one Qwen per GPU), sharded (one over several), hybrid (a core and executors beside it)."""

    kind: Literal["replicas", "sharded", "hybrid"] = Field(
        "replicas", description="The form of the cluster."
    )

    @model_validator(mode="after")
    def _shape_matches_kind(self) -> Topology:
        if self.kind == "replicas" and (
            self.tensor_parallel * self.pipeline_parallel > 1 or self.nodes > 1
        ):
            msg = "kind replicas pins one model per GPU, so tensor_parallel, pipeline_parallel and nodes stay 1; use kind sharded or hybrid"
            raise ValueError(msg)
        if self.kind == "sharded" and self.tensor_parallel * self.pipeline_parallel == 1:
            msg = "kind sharded needs tensor_parallel or pipeline_parallel above 1"
            raise ValueError(msg)
        return self


class EngineExecutor(Shape):
    """An executor that runs on our own machines."""

    kind: Literal["engine"] = "engine"
    model: str = Field(description="demo, tiny, tiny-moe, a hub name, or a local folder.")
    engine: EngineOverride = Field(default_factory=EngineOverride)
    fallback: str | None = Field(None, description="Executor that answers when this one is down.")


class RemoteExecutor(Section):
    """An executor behind any OpenAI-compatible URL."""

    kind: Literal["remote"] = "remote"
    url: str = Field(pattern=r"^https?://", description="Base URL with /v1.")
    model: str = Field(description="Model name at that server.")
    key_env: str | None = Field(None, description="Environment variable that holds its key.")
    timeout_s: float = Field(
        600,
        gt=0,
        description="Longest silence in seconds: before the answer, and between two pieces of it.",
    )
    connect_timeout_s: float = Field(5, gt=0)
    max_in_flight: int = Field(64, ge=1, description="Requests at once; above that 429.")
    context: int | None = Field(None, ge=16, description="Context in tokens, where known.")
    fallback: str | None = Field(None, description="Executor that answers when this one is down.")


def _kind_of(raw: object) -> str | None:
    """Return the kind of an executor: what it says, else remote with a url and engine without."""
    if not isinstance(raw, Mapping):
        return getattr(raw, "kind", None)
    return str(raw["kind"]) if "kind" in raw else "remote" if "url" in raw else "engine"


Executor = Annotated[
    Annotated[EngineExecutor, Tag("engine")] | Annotated[RemoteExecutor, Tag("remote")],
    Discriminator(_kind_of),
]


class EngineView(Section):
    """The part of the tree that the engine room and the gateway's executor table are made from."""

    model_config = Section.model_config | {"extra": "ignore"}

    model: str = Field(
        "demo",
        description="The core: demo, tiny, tiny-moe, a hub name, or a local folder.",
        json_schema_extra=restarts("engine"),
    )
    topology: Topology = Field(default_factory=Topology, json_schema_extra=restarts("engine"))
    engine: EngineSettings = Field(default_factory=EngineSettings)
    executors: dict[Name, Executor] = Field(
        default_factory=dict, json_schema_extra=restarts("engine and gateway")
    )
    adapters: Mapping[str, Any] = Field(default_factory=dict, json_schema_extra=LIVE)

    def lora(self, executor: str) -> LoraSettings | None:
        """Return the LoRA settings of an executor of our own, or None where LoRA is off there.

        Raises WrongValueError for slots that pinned adapters would fill, and for contradicting keys of an override.
        """
        place: tuple[str, ...] = ("engine", "lora", "slots")
        settings = self.engine
        if executor != CORE:
            row = self.executors[executor]
            if not isinstance(row, EngineExecutor):
                return None
            place = ("executors", executor, *place)
            settings = row.engine.over(self.engine)
        adapters = {name: _plain(row) for name, row in self.adapters.items()}
        block = None if settings.lora is None else settings.lora.model_dump()
        found = lora_settings.counted(block, adapters, executor)
        if found is not None:
            found = replace(found, cache_gib=self.engine.adapter_cache_gib)
        held = lora_settings.pinned(adapters, executor)
        if found is not None and held and len(held) >= found.slots:
            reason = (
                f"it is {found.slots}, and {len(held)} adapters have placement vram ({', '.join(held[:5])}); "
                f"one slot is never pinned, or no other adapter could answer. Set it to {len(held) + 1} or more, or give one of them placement ram"
            )
            raise WrongValueError(place, reason)
        return found

    def slots_by_adapters(self) -> dict[str, str]:
        """Return a sentence for each engine of our own that has slots only because `adapters` names some: what that takes, and how to limit it."""
        told = {}
        for name in (CORE, *self.executors):
            found, row = self.lora(name), self.executors.get(name)
            own = row.engine if isinstance(row, EngineExecutor) else None
            if found is None or self.engine.lora is not None or (own and own.lora is not None):
                continue
            key = "engine" if name == CORE else f"executors.{name}.engine"
            told[name] = (
                f"{name} has {found.slots} slots for adapters of rank {found.max_rank}, because the configuration names adapters. Each takes memory, used or not; "
                f"'consilium plan -c FILE' says how much (LoRA slots). {key}.lora limits it (slots, max_rank; slots: 0 = none), and adapters.NAME.executors says which engines may hold one"
            )
        return told

    @model_validator(mode="after")
    def _slots_are_left(self) -> EngineView:
        for name in (CORE, *self.executors):
            self.lora(name)
        return self

    @model_validator(mode="after")
    def _executors_fit_kind(self) -> EngineView:
        for name, executor in self.executors.items():
            if name == CORE:
                raise WrongValueError(
                    ("executors", name), "the name core belongs to the model itself; choose another"
                )
            if isinstance(executor, EngineExecutor) and self.topology.kind != "hybrid":
                raise WrongValueError(
                    ("executors", name),
                    f"it is an engine of its own, and topology.kind is {self.topology.kind}; set topology.kind to hybrid",
                )
            if (
                executor.fallback is not None
                and executor.fallback != CORE
                and executor.fallback not in self.executors
            ):
                reason, nearest = no_such(
                    executor.fallback, "executor", {CORE, *self.executors} - {name}
                )
                raise WrongValueError(("executors", name, "fallback"), reason, nearest)
        return self


def _plain(row: object) -> Mapping[str, Any]:
    """Return an adapter of the configuration as plain values: the whole tree has it as a section, an engine reads it as it stands in the file."""
    dump = getattr(row, "model_dump", None)
    return dump() if dump is not None else row if isinstance(row, Mapping) else {}


def from_root(view: EngineView, beside: Path) -> dict[str, object]:
    """Return the fields of a view that name files, with the files named from the root, because engines run in folders of their own.

    beside  folder of the configuration file: relative names are looked up there first, then in the working directory

    Raises ConsiliumError(config_invalid) for a file that is not there.
    """

    def named(key: str, settings: EngineSettings | EngineOverride) -> dict[str, object]:
        name = settings.chat_template
        return {"chat_template": None if name is None else str(file_of_key(key, name, beside))}

    executors: dict[str, Executor] = {}
    for name, executor in view.executors.items():
        executors[name] = executor
        if isinstance(executor, EngineExecutor):
            template = named(f"executors.{name}.engine.chat_template", executor.engine)
            engine = executor.engine.model_copy(update=template)
            update = {"model": _model(executor.model, beside), "engine": engine}
            executors[name] = executor.model_copy(update=update)
    core = view.engine.model_copy(update=named("engine.chat_template", view.engine))
    return {"model": _model(view.model, beside), "engine": core, "executors": executors}


def file_of_key(key: str, name: str, beside: Path) -> Path:
    """Return the file that a key names, from the root. Raises ConsiliumError(config_invalid) if it is not there."""
    for folder in (beside, Path()):
        path = (folder / Path(name).expanduser()).resolve()
        if path.is_file():
            return path
    raise ConsiliumError(
        "config_invalid", key=key, reason=f"there is no file {(beside / name).resolve()}"
    )


def _model(name: str, beside: Path) -> str:
    """Return the folder's full name if a model is one, else the name as it is."""
    for folder in (beside, Path()):
        path = (folder / Path(name).expanduser()).resolve()
        if path.is_dir() and name not in BUILT_IN_MODELS:
            return str(path)
    return name
