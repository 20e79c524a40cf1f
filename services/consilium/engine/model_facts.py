"""What a model folder says about itself: shapes, context, chat template, size.

Takes config.json as the planner reads it, and reads the chat template beside it. Does not read weights, does not download anything, and does not know what the machine has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from consilium.engine.parsers import NO_PARSERS, Parsers, by_family
from consilium.kernel.errors import ConsiliumError
from consilium.planner import checkpoint, shapes
from consilium.planner.models import format_of

_BASE: Final = re.compile(r"(^|[-_/.])base($|[-_/.])", re.IGNORECASE)
_OF_VECTORS: Final = re.compile(
    r"(?<!LMHead)(?<!Chat)Model$|For(SequenceClassification|TokenClassification|MaskedLM|TextEncoding)$"
)
"""Architectures of config.json that make vectors or scores and not text: BertModel, Gemma3TextModel, XLMRobertaForSequenceClassification."""
_BY_TOKENS: Final = frozenset({"deepseek_r1", "ernie45"})
"""Parsers of thoughts that look for single tokens."""
_VOCABULARIES: Final = ("tokenizer.json", "added_tokens.json", "tokenizer_config.json")
_BOTH_WAYS: Final = ("gemma", "paligemma")
"""Families whose images are read both ways, and so at once."""
_MOST_TEMPLATE_BYTES: Final = 64 << 20
"""tokenizer_config.json may list every added token."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model on disk.

    name          served name: what callers send as `model`
    path          folder with config.json, tokenizer and safetensors
    shape         layers, heads and widths, as the planner counts them
    revision      short fingerprint of the files
    note          what it is, for a person
    model_type    of the decoder
    weights       format of the weight files, such as bf16 or int4
    weight_bytes  size of the weight files
    has_template  False for a base model without a chat template
    parsers       of vLLM's, by its family: what reads its thoughts and its tool calls
    whole_prompts  an engine on processors reads its prompts in one step: vLLM cannot cut them there, or cuts an image in two
    """

    name: str
    path: str
    shape: shapes.Shape
    revision: str = ""
    note: str = ""
    model_type: str = ""
    weights: str = "bf16"
    weight_bytes: int = 0
    has_template: bool = True
    parsers: Parsers = NO_PARSERS
    vision: bool = False
    whole_prompts: bool = False

    @property
    def is_base(self) -> bool:
        """Whether this is a base model: no chat template, or a name that says so."""
        return not self.has_template or bool(_BASE.search(self.name))


def read(folder: str | Path, name: str, *, revision: str = "", note: str = "") -> ModelFacts:
    """Return the facts of the model in `folder`, served as `name`.

    Raises ConsiliumError(model_missing) if the folder, config.json or the weights are missing or not readable.
    """
    root = Path(folder)
    try:
        config = checkpoint.read_json(root / "config.json")
    except FileNotFoundError as cause:
        raise _missing(name, f"{root} has no config.json") from cause
    except checkpoint.UnreadableError as cause:
        raise _missing(name, f"{root}/config.json {cause}") from cause
    if not checkpoint.weight_files(root):
        raise _missing(name, f"{root} has no .safetensors file; the download may be incomplete")
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    template = _template(root)
    spoken_by_mistral = not template and (root / "tekken.json").is_file()
    model_type = str(inner.get("model_type") or config.get("model_type") or "")
    return ModelFacts(
        name=name,
        path=str(root),
        shape=_shape(root, config, name),
        revision=revision,
        note=note,
        model_type=model_type,
        weights=format_of(config),
        weight_bytes=checkpoint.weight_bytes(root),
        has_template=bool(template)
        or spoken_by_mistral,  # then vLLM takes Mistral's own code for the format
        parsers=Parsers(tools="mistral")
        if spoken_by_mistral
        else _fitting(by_family(template, model_type), root, model_type),
        vision="vision_config" in config,
        whole_prompts=_makes_vectors(root, config)
        or bool(inner.get("kv_lora_rank"))
        or ("vision_config" in config and model_type.startswith(_BOTH_WAYS)),
    )


def _makes_vectors(root: Path, config: shapes.Config) -> bool:
    """Say whether a model is made for vectors: by its architecture, or because it comes as sentence-transformers writes one."""
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, list) and named else ""
    return bool(_OF_VECTORS.search(first)) or (root / "modules.json").is_file()


def _shape(root: Path, config: shapes.Config, name: str) -> shapes.Shape:
    """Return the shape, or the outline of a kind of model that the planner does not know."""
    try:
        try:
            return shapes.from_config(config, name)
        except ConsiliumError:
            return shapes.outline(config, name)
    except ConsiliumError as cause:
        raise _missing(name, f"{root}/config.json: {cause.fields['reason']}") from cause


def with_template(facts: ModelFacts, template: str) -> ModelFacts:
    """Return the facts of the same model with another chat template, which its owner has written."""
    found = _fitting(by_family(template, facts.model_type), Path(facts.path), facts.model_type)
    return replace(facts, has_template=True, parsers=found)


def _fitting(found: Parsers, root: Path, model_type: str) -> Parsers:
    """Return the parsers of a family as far as they fit this model: with one that misses its marks in the vocabulary vLLM would not start.

    Models that were made to think by training alone write <think> in several tokens; `qwen3` reads that too.
    """
    if found.reasoning not in _BY_TOKENS or _has_token(root, b'"<think>"'):
        return found
    return replace(found, reasoning="qwen3" if model_type.startswith("qwen") else None)


def _has_token(root: Path, token: bytes) -> bool:
    """Say whether a token stands in a vocabulary, as JSON writes it; True where there is no file that would tell."""
    files = [root / name for name in _VOCABULARIES if (root / name).is_file()]
    return not files or any(token in file.read_bytes() for file in files)


def _template(root: Path) -> str:
    """Return the chat template, "" where there is none."""
    jinja = root / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for file in ("chat_template.json", "tokenizer_config.json"):
        try:
            found = checkpoint.read_json(root / file, _MOST_TEMPLATE_BYTES).get("chat_template")
        except (FileNotFoundError, checkpoint.UnreadableError):
            continue
        if isinstance(found, list):  # several named templates
            found = next(
                (row.get("template") for row in found if row.get("name") == "default"), None
            )
        if isinstance(found, str) and found:
            return found
    return ""


def _missing(name: str, reason: str) -> ConsiliumError:
    return ConsiliumError("model_missing", name=name, reason=reason)
