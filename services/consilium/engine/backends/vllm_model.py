"""What an engine shows of its model: whether it has a chat template, reads tool calls, samples by default, and what its tokenizer knows.

Touches vLLM. Does not start anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vllm.renderers.chat_utils import load_chat_template
from vllm.tool_parsers import ToolParserManager

from consilium.engine.backends.vllm_tap import TappedLLM
from consilium.engine.vocabulary import Vocabulary, measured

GREEDY: Final = 1e-5  # vLLM takes lower temperatures for none


def has_template(tokenizer: Any) -> bool:
    """Return whether the tokenizer brings a chat template along; kinds without the field have code of their own for it."""
    return bool(getattr(tokenizer, "chat_template", None)) or not hasattr(
        tokenizer, "chat_template"
    )


def reads_calls(parser: str | None, tokenizer: Any) -> bool:
    """Return whether a tool parser works with this tokenizer; some need tokens of their own family."""
    if parser is None:
        return True
    try:
        ToolParserManager.get_tool_parser(parser)(tokenizer)
    except Exception:
        return False
    return True


def is_greedy(engine: TappedLLM) -> bool:
    """Return whether the model's own default is the likeliest token."""
    temperature = engine.model_config.get_diff_sampling_param().get("temperature")
    return temperature is not None and temperature < GREEDY


def vocabulary_of(tokenizer: Any, chosen: str | None) -> Vocabulary:
    """Return what the tokenizer shows.

    chosen  chat template that replaces the tokenizer's own: the path of a file, or its text
    """
    template = load_chat_template(chosen) or getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, Mapping):  # several by name
        template = "\n".join(map(str, template.values()))
    marked = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return measured(
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        special={
            *tokenizer.all_special_tokens,
            *(str(token) for token in marked if getattr(token, "special", False)),
        },
        added=[*map(str, marked), *tokenizer.get_added_vocab()],
        template=template,
    )
