"""Reads an engine's boot log and turns it into measured values: weights, overhead, KV, tokens; kept per model, card and version.

Knows the log lines of vLLM 0.6 to 0.33, on GPU and CPU. The formats are patterns, one per line kind; a line that is missing leaves its value empty.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.planner.figures import GIB
from consilium.planner.refusal import wrong

MAX_LOG_BYTES: Final = 64 << 20
_HEAD: Final = 65_536
_PATTERNS: Final[dict[str, tuple[re.Pattern[str], ...]]] = {
    "version": (
        re.compile(r"LLM engine \(v([\w.+]+?)\)"),
        re.compile(r"vLLM (?:API server )?version v?([\w.+]+)"),
        re.compile(r"\u2588 +version ([\d.]+\w*)"),
    ),
    "model": (
        re.compile(r"with config: (?:.*?)model='([^']+)'"),
        re.compile(r"\bmodel='([^']+)'"),
        re.compile(r"'model': '([^']+)'"),
    ),
    "tensor_parallel": (re.compile(r"tensor_parallel_size=(\d+)"),),
    "pipeline_parallel": (re.compile(r"pipeline_parallel_size=(\d+)"),),
    "quantization": (re.compile(r"quantization=(?!None)'?([\w-]+)"),),
    "max_model_len": (re.compile(r"max_seq_len=(\d+)"), re.compile(r"Using max model len (\d+)")),
    "kv_dtype": (re.compile(r"kv_cache_dtype=(\w+)"), re.compile(r"'kv_cache_dtype': '(\w+)'")),
    "sequences": (re.compile(r"max_num_seqs(?:=|': )(\d+)"),),
    "batched_tokens": (re.compile(r"max_num_batched_tokens(?:=|': )(\d+)"),),
    "weights_gib": (
        re.compile(r"Model loading took ([\d.]+) Gi?B"),
        re.compile(r"Loading model weights took ([\d.]+) GB"),
        re.compile(r"model weights take ([\d.]+)GiB"),
        re.compile(r"Actual usage is ([\d.]+) GiB for weight"),
    ),
    "kv_gib": (
        re.compile(r"Available KV cache memory: (-?[\d.]+) GiB"),
        re.compile(r"reserved for KV Cache is (-?[\d.]+)GiB"),
        re.compile(r"(?:Explicitly|Auto) set \(([\d.]+)/[\d.]+\) GiB for KV cache"),
        re.compile(r"reserved ([\d.]+) GiB memory for KV Cache"),
        re.compile(r"Current kv cache memory in use is ([\d.]+) GiB"),
    ),
    "kv_tokens": (re.compile(r"(?:GPU|CPU|XPU|TPU)(?: \+ host)? KV cache size: ([\d,]+) tokens"),),
    "kv_blocks": (re.compile(r"# (?:CUDA|GPU) blocks: (\d+)"),),
    "concurrency": (re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x"),),
    "graphs_gib": (re.compile(r"Graph capturing finished in [\d.]+ secs?, took ([\d.]+) GiB"),),
    "activation_gib": (
        re.compile(r"([\d.]+) GiB for peak activation"),
        re.compile(r"activation peak memory takes ([\d.]+)GiB"),
    ),
    "consumed_gib": (re.compile(r"Actual usage is ([\d.]+) GiB for (?:consumed|weight)"),),
    "non_torch_gib": (
        re.compile(r"non_torch_memory takes ([\d.]+)GiB"),
        re.compile(r"([\d.]+) GiB for non-torch memory"),
    ),
    "total_gib": (
        re.compile(r"Free memory on device \([\d.]+/([\d.]+) GiB\)"),
        re.compile(r"total_gpu_memory \(([\d.]+)GiB\)"),
    ),
    "budget_gib": (
        re.compile(r"Desired GPU memory utilization is \([\d.]+, ([\d.]+) GiB\)"),
        re.compile(r"gpu_memory_utilization \([\d.]+\) = ([\d.]+)GiB"),
    ),
}
_TEXT: Final = frozenset({"version", "model", "quantization", "kv_dtype"})
_WHOLE: Final = frozenset(
    {
        "tensor_parallel",
        "pipeline_parallel",
        "max_model_len",
        "sequences",
        "batched_tokens",
        "kv_tokens",
        "kv_blocks",
    }
)
_SMALLEST: Final = frozenset({"kv_gib"})


@dataclass(frozen=True, slots=True)
class Boot:
    """What one boot log says; GiB are per card. None where the log is silent."""

    version: str | None = None
    model: str | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    quantization: str | None = None
    max_model_len: int | None = None
    kv_dtype: str | None = None
    sequences: int | None = None
    batched_tokens: int | None = None
    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    kv_blocks: int | None = None
    concurrency: float | None = None
    graphs_gib: float | None = None
    activation_gib: float | None = None
    consumed_gib: float | None = None
    non_torch_gib: float | None = None
    total_gib: float | None = None
    budget_gib: float | None = None
    on_cpu: bool = False

    def tokens(self) -> int | None:
        """Return KV tokens: as printed, or blocks x 16 in old logs."""
        if self.kv_tokens is not None:
            return self.kv_tokens
        return self.kv_blocks * 16 if self.kv_blocks is not None else None

    def overhead_gib(self) -> float | None:
        """Return what the engine took besides weights and KV, in GiB per card; None when the log does not give budget, weights and KV."""
        if self.budget_gib is not None and self.weights_gib is not None and self.kv_gib is not None:
            return self.budget_gib - self.weights_gib - self.kv_gib
        if self.activation_gib is not None and self.non_torch_gib is not None:
            return self.activation_gib + self.non_torch_gib
        return None

    def token_bytes(self) -> float | None:
        """Return bytes of KV per token and card as the log implies them."""
        tokens = self.tokens()
        return self.kv_gib * GIB / tokens if tokens and self.kv_gib else None


def read(text: str) -> Boot:
    """Return the measured values of a boot log. With several ranks the poorest KV counts; with several boots, the last.

    Raises invalid_request when it is no boot log of vLLM.
    """
    if "\0" in text[:_HEAD]:
        raise _no_log()
    boots = re.split(r"(?=^.*Initializing a(?:n| V\d) LLM engine)", text, flags=re.MULTILINE)
    body = boots[-1] if len(boots) > 1 else text
    head = boots[0] if len(boots) > 1 else ""
    found: dict[str, str | int | float] = {}
    for name, patterns in _PATTERNS.items():
        values = next(
            (hits for pattern in patterns if (hits := pattern.findall(body))), None
        ) or next((hits for pattern in patterns if (hits := pattern.findall(head))), None)
        if not values:
            continue
        if name in _TEXT:
            found[name] = values[-1]
        elif name in _WHOLE:
            found[name] = int(values[-1].replace(",", ""))
        else:
            numbers = [float(value) for value in values]
            found[name] = min(numbers) if name in _SMALLEST else max(numbers)
    if "kv_gib" not in found and "kv_tokens" not in found and "weights_gib" not in found:
        raise wrong(
            "log",
            "it holds none of the lines that vLLM writes while it starts, such as 'Available KV cache memory'; give the log of an engine from its beginning",
        )
    on_cpu = "CPU KV cache size" in body or "for KV cache on node" in body
    return Boot(**found, on_cpu=on_cpu)  # type: ignore[arg-type]


def _no_log() -> ConsiliumError:
    return wrong(
        "log",
        "it holds none of the lines that vLLM writes while it starts, such as 'Available KV cache memory'; give the log of an engine from its beginning",
    )


def read_file(path: Path) -> Boot:
    """Return the measured values of a log file."""
    try:
        if path.stat().st_size > MAX_LOG_BYTES:
            raise wrong(
                "log",
                f"{path.name} has {path.stat().st_size >> 20} MiB; cut it to the start of the engine",
            )
        return read(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as err:
        raise wrong(
            "log", f"{path} cannot be read ({err.strerror}); give the log file of an engine"
        ) from err


@dataclass(frozen=True, slots=True)
class Measured:
    """Overheads that were measured, per (model, card, version), in bytes per card."""

    entries: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def key(model: str, card: str, version: str) -> str:
        """Return the name under which a measurement is kept; the model without its owner."""
        return f"{model.rstrip('/').split('/')[-1]}|{card}|{version}"

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Return the measurements in a file; none when it does not exist yet."""
        if not path.exists():
            return cls()
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            return cls({str(name): int(value["overhead_bytes"]) for name, value in loaded.items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise wrong(
                "measured",
                f"{path} is no file of measurements; make one with 'consilium plan calibrate LOG --save {path.name}'",
            ) from err

    def overhead(self, model: str, card: str, version: str) -> int | None:
        """Return the measured overhead in bytes for this model, card and version, or None."""
        return self.entries.get(self.key(model, card, version))

    def names(self) -> str:
        """Return what is kept, for a person."""
        return ", ".join(
            name.replace("|", " on ", 1).replace("|", " with vLLM ")
            for name in sorted(self.entries)
        )


def save(path: Path, model: str, card: str, boot: Boot) -> str:
    """Add a measurement to a file and return the key it stands under.

    Raises invalid_request when the log does not give the overhead.
    """
    overhead = boot.overhead_gib()
    if overhead is None or boot.version is None:
        raise wrong(
            "log",
            "it does not give budget, weights and KV together; start the engine once with its usual log level and give that log",
        )
    Measured.load(path)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    key = Measured.key(model, card, boot.version)
    kept[key] = {
        "overhead_bytes": round(overhead * GIB),
        "boot": {name: value for name, value in asdict(boot).items() if value is not None},
    }
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return key
