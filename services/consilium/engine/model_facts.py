"""What a model folder says about itself: shapes, context, chat template, size.

Reads config.json and its neighbours. Does not read weights, does not download anything, and does not know what the machine has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from consilium.kernel.errors import ConsiliumError

Json: TypeAlias = Mapping[str, object]
ToolStyle = Literal["hermes", "qwen3_coder", "mistral", "llama3_json"]

_BASE: Final = re.compile(r"(^|[-_/.])base($|[-_/.])", re.IGNORECASE)
_SNAPSHOT: Final = re.compile(r"/snapshots/([0-9a-f]{12,64})/?$")
_REQUIRED: Final = ("num_hidden_layers", "num_attention_heads", "hidden_size")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model on disk.

    name          served name: what callers send as `model`
    path          folder with config.json, tokenizer and safetensors
    revision      short fingerprint: the hub commit, or a hash of config.json and of the weight files' names and sizes
    note          what it is, for a person
    heads         attention heads; kv_heads of them hold keys and values
    intermediate  width of the dense feed-forward layer, or of one expert in a mixture
    experts       0 in a dense model
    context       tokens that the checkpoint was made for
    weight_bytes  size of the weight files
    has_template  False for a base model without a chat template
    thinks        its template opens a <think> block
    tool_style    how its template writes tool calls, or None
    """

    name: str
    path: str
    revision: str = ""
    note: str = ""
    architecture: str = ""
    model_type: str = ""
    layers: int = 1
    hidden: int = 0
    heads: int = 1
    kv_heads: int = 1
    intermediate: int = 0
    experts: int = 0
    context: int | None = None
    weight_bytes: int = 0
    has_template: bool = True
    thinks: bool = False
    tool_style: ToolStyle | None = None
    vision: bool = False

    @property
    def is_base(self) -> bool:
        """Whether this is a base model: no chat template, or a name that says so."""
        return not self.has_template or bool(_BASE.search(self.name))


def read(folder: str | Path, name: str, revision: str = "") -> ModelFacts:
    """Return the facts of the model in `folder`, served as `name`. An empty revision is worked out.

    Raises ConsiliumError(model_missing) if the folder, config.json or the weights are missing or not readable.
    """
    root = Path(folder)
    config = _config(root, name)
    text = _section(config, "text_config") or config
    for key in _REQUIRED:
        if not isinstance(text.get(key), int):
            raise _missing(name, f"{root}/config.json has no {key}")
    weights = sorted((*root.glob("*.safetensors"), *root.glob("*.gguf")))
    if not weights:
        raise _missing(name, f"{root} has no .safetensors file; the download may be incomplete")
    template = _template(root)
    experts = _number(text, "num_experts", "num_local_experts", "n_routed_experts")
    return ModelFacts(
        name=name,
        path=str(root),
        revision=revision or _revision(root, weights),
        architecture=_first(config.get("architectures")),
        model_type=str(text.get("model_type") or config.get("model_type") or ""),
        layers=_number(text, "num_hidden_layers"),
        hidden=_number(text, "hidden_size"),
        heads=_number(text, "num_attention_heads"),
        kv_heads=_number(text, "num_key_value_heads", "num_attention_heads"),
        intermediate=_number(text, "moe_intermediate_size", "intermediate_size")
        if experts
        else _number(text, "intermediate_size"),
        experts=experts,
        context=_number(text, "max_position_embeddings") or None,
        weight_bytes=sum(file.stat().st_size for file in weights),
        has_template=bool(template),
        thinks="<think>" in template,
        tool_style=tool_style(template),
        vision="vision_config" in config,
    )


def tool_style(template: str) -> ToolStyle | None:
    """Return how a chat template asks the model to write tool calls; the template is the truth, the model's name is not."""
    if "<function=" in template:
        return "qwen3_coder"
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template:
        return "llama3_json"
    return None


def _config(root: Path, name: str) -> Json:
    try:
        config = json.loads((root / "config.json").read_text("utf-8"))
    except OSError as cause:
        raise _missing(name, f"{root}/config.json cannot be read") from cause
    except ValueError as cause:
        raise _missing(name, f"{root}/config.json is not JSON") from cause
    if not isinstance(config, dict):
        raise _missing(name, f"{root}/config.json is not a JSON object")
    return config


def _template(root: Path) -> str:
    jinja = root / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for file in ("chat_template.json", "tokenizer_config.json"):
        try:
            found = json.loads((root / file).read_text("utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, list):  # several named templates
            found = next(
                (row.get("template") for row in found if row.get("name") == "default"), None
            )
        if isinstance(found, str) and found:
            return found
    return ""


def _revision(root: Path, weights: list[Path]) -> str:
    snapshot = _SNAPSHOT.search(str(root))
    if snapshot:
        return snapshot.group(1)[:12]
    digest = hashlib.sha256((root / "config.json").read_bytes())
    for file in weights:
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
    return digest.hexdigest()[:12]


def _section(config: Json, key: str) -> Json | None:
    found = config.get(key)
    return found if isinstance(found, dict) else None


def _number(config: Json, *keys: str) -> int:
    for key in keys:
        found = config.get(key)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return 0


def _first(value: object) -> str:
    return str(value[0]) if isinstance(value, list) and value else ""


def _missing(name: str, reason: str) -> ConsiliumError:
    return ConsiliumError("model_missing", name=name, reason=reason)
