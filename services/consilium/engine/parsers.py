"""Which of vLLM's parsers reads the tool calls and the thoughts of a model, by its family.

The chat template is the truth: it shows the model how to write a call. Where two families write alike, `model_type` of config.json decides. A template that does
not render `tools` never shows the model a tool, so no parser could find a call. Pure: texts in, names out. The names are those that vLLM 0.32 registers; marks
and families are those of vLLM's pages on tool calling and reasoning. Does not know files or settings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Parsers:
    """Names of vLLM's parsers for one model; None = off."""

    reasoning: str | None = None
    tools: str | None = None


NO_PARSERS: Final = Parsers()


@dataclass(frozen=True, slots=True)
class _Row:
    """One family: any of the marks stands in the template, and the model's type begins with one of `types` (empty = any)."""

    parser: str
    marks: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    def fits(self, template: str, model_type: str) -> bool:
        return (not self.marks or any(mark in template for mark in self.marks)) and (
            not self.types or model_type.startswith(self.types)
        )


_DEEPSEEK_CALLS: Final = "<｜tool▁calls▁begin｜>"
_DEEPSEEK_DSML: Final = "｜DSML｜"

# The first row that fits wins: what only one family writes stands above what several write.
_TOOLS: Final = (
    _Row("openai", types=("gpt_oss",)),
    _Row("deepseek_v4", (_DEEPSEEK_DSML,), ("deepseek_v4",)),
    _Row("deepseek_v32", (_DEEPSEEK_DSML,)),
    _Row("seed_oss", ("<seed:tool_call>",)),
    _Row("minimax_m2", ("<minimax:tool_call>",)),
    _Row("kimi_k2", ("<|tool_calls_section_begin|>",)),
    _Row("longcat", ("<longcat_tool_call>",)),
    _Row("dots", ("<dots_function_call>",)),
    _Row("functiongemma", ("<start_function_call>",)),
    _Row("gemma4", ("<|tool_call>",)),
    _Row("lfm2", ("<|tool_call_start|>",)),
    _Row("apertus", ("<|tools_prefix|>",)),
    _Row("internlm", ("<|action_start|>",)),
    _Row("gigachat3", ("function call<|role_sep|>",)),
    _Row("mistral", ("[TOOL_CALLS]",)),
    _Row("granite4", ("<tool_call>",), ("granite",)),
    _Row("granite", ("<|tool_call|>",), ("granite",)),
    _Row("phi4_mini_json", ("<|tool|>", "functools["), ("phi",)),
    _Row("jamba", ("<tool_calls>",), ("jamba",)),
    _Row("hunyuan_a13b", ("<tool_calls>",), ("hunyuan",)),
    _Row("ernie45", ("<tool_call>",), ("ernie",)),
    _Row("olmo3", ("<function_calls>",), ("olmo",)),
    _Row("step3p5", ("<function=",), ("step3p5",)),
    _Row("mimo", ("<function=",), ("mimo",)),
    _Row("minicpm5", ("<function name=",), ("minicpm",)),
    _Row("glm45", ("<arg_key>",)),
    _Row("qwen3_coder", ("<function=",)),
    _Row("hermes", ("<tool_call>",)),
    _Row("llama4_pythonic", ("[func_name1(",), ("llama4",)),
    _Row("pythonic", ("[func_name1(",)),
    _Row("llama4_json", ("JSON for a function call",), ("llama4",)),
    _Row("llama3_json", ("<|python_tag|>", "JSON for a function call")),
)

_REASONING: Final = (
    _Row("openai_gptoss", types=("gpt_oss",)),
    _Row("deepseek_v4", (_DEEPSEEK_DSML,), ("deepseek_v4",)),
    _Row("deepseek_v3", (_DEEPSEEK_DSML,)),
    _Row("seed_oss", ("<seed:think>",)),
    _Row("mistral", ("[THINK]",)),
    _Row("granite", ("Here is my thought process",), ("granite",)),
    _Row("glm45", ("<think>",), ("glm4",)),
    _Row("qwen3", ("<think>",), ("qwen3",)),
    _Row("deepseek_r1", ("<think>",), ("qwen2",)),  # QwQ, and DeepSeek's distilled Qwens
    _Row("minimax_m2", ("<think>",), ("minimax",)),
    _Row("kimi_k2", ("<think>",), ("kimi_k2",)),
    _Row("hunyuan_a13b", ("<think>",), ("hunyuan",)),
    _Row("ernie45", ("<think>",), ("ernie",)),
    _Row("nemotron_v3", ("<think>",), ("nemotron_h",)),
    _Row("step3p5", ("<think>",), ("step3p5",)),
    _Row("olmo3", ("<think>",), ("olmo3",)),
    _Row("mimo", ("<think>",), ("mimo",)),
)

_TAG: Final = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_TOOLS_NAME: Final = re.compile(r"(?<![\w.])tools(?!\w)")


def by_family(template: str, model_type: str) -> Parsers:
    """Return the parsers for a model.

    template    its chat template, "" where it has none
    model_type  of config.json, of the decoder where there are several
    """
    return Parsers(_reasoning(template, model_type), _tools(template, model_type))


def renders_tools(template: str) -> bool:
    """Return whether a chat template shows the model the tools of a request: it reads the variable `tools`."""
    return any(_TOOLS_NAME.search(_QUOTED.sub("", tag)) for tag in _TAG.findall(template))


def _tools(template: str, model_type: str) -> str | None:
    if not renders_tools(template):
        return None
    if _DEEPSEEK_CALLS in template:  # V3 and R1 put arguments into a block of code, later ones not
        return "deepseek_v3" if "```json" in template else "deepseek_v31"
    return _first(_TOOLS, template, model_type)


def _reasoning(template: str, model_type: str) -> str | None:
    if "<｜Assistant｜>" in template and "think>" in template:
        # Only V3.1 and later can be told not to think; models distilled from R1 are of other types.
        return "deepseek_v3" if re.search(r"\bif (not )?thinking\b", template) else "deepseek_r1"
    return _first(_REASONING, template, model_type)


def _first(rows: tuple[_Row, ...], template: str, model_type: str) -> str | None:
    return next((row.parser for row in rows if row.fits(template, model_type)), None)


TOOL_PARSERS: Final = frozenset({"deepseek_v3", "deepseek_v31"} | {row.parser for row in _TOOLS})
REASONING_PARSERS: Final = frozenset(
    {"deepseek_v3", "deepseek_r1"} | {row.parser for row in _REASONING}
)
"""Every name that a family may get; a test holds them to what vLLM registers."""
