"""Which parsers a model gets by its family."""

import pytest

from consilium.engine.parsers import (
    REASONING_PARSERS,
    TOOL_PARSERS,
    Parsers,
    by_family,
    renders_tools,
)

TOOLS = "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"


@pytest.mark.parametrize(
    ("template", "model_type", "expected"),
    [
        (TOOLS + "<tool_call>{json}</tool_call>", "qwen2", (None, "hermes")),
        (TOOLS + "<think><tool_call>{json}</tool_call>", "qwen3", ("qwen3", "hermes")),
        (TOOLS + "<think><tool_call>{json}</tool_call>", "qwen2", ("deepseek_r1", "hermes")),
        (TOOLS + "<tool_call>\n<function=name>", "qwen3_moe", (None, "qwen3_coder")),
        (TOOLS + "<think><tool_call>\n<function=", "qwen3_5_moe", ("qwen3", "qwen3_coder")),
        (TOOLS + "<think><tool_call>\n<function=", "nemotron_h", ("nemotron_v3", "qwen3_coder")),
        (TOOLS + "<seed:think><seed:tool_call><function=", "seed_oss", ("seed_oss", "seed_oss")),
        (TOOLS + "<|python_tag|>", "llama", (None, "llama3_json")),
        (TOOLS + "respond with a JSON for a function call", "llama", (None, "llama3_json")),
        (TOOLS + "<tool_call>", "llama", (None, "hermes")),
        (TOOLS + "JSON for a function call", "llama4_text", (None, "llama4_json")),
        (TOOLS + "[func_name1(a=b)]", "llama4_text", (None, "llama4_pythonic")),
        (TOOLS + "[TOOL_CALLS]", "mistral", (None, "mistral")),
        (TOOLS + "[THINK][TOOL_CALLS]", "mistral", ("mistral", "mistral")),
        (TOOLS + "<｜tool▁calls▁begin｜>```json", "deepseek_v3", (None, "deepseek_v3")),
        (
            TOOLS + "{% if thinking %}<｜Assistant｜></think><｜tool▁calls▁begin｜>",
            "deepseek_v3",
            ("deepseek_v3", "deepseek_v31"),
        ),
        ("<｜Assistant｜><think>\n<｜tool▁calls▁begin｜>```json", "llama", ("deepseek_r1", None)),
        (TOOLS + "<think><tool_call><arg_key>", "glm4_moe", ("glm45", "glm45")),
        (TOOLS + "<|tool_calls_section_begin|>", "kimi_k2", (None, "kimi_k2")),
        (TOOLS + "<think><minimax:tool_call>", "minimax_m2", ("minimax_m2", "minimax_m2")),
        (TOOLS + "<|channel|>", "gpt_oss", ("openai_gptoss", "openai")),
        (TOOLS + "<tool_call>", "granitemoehybrid", (None, "granite4")),
        (TOOLS + "<|tool|>", "phi3", (None, "phi4_mini_json")),
        (TOOLS + "nobody knows this", "new", (None, None)),
        ("<tool_call>{json}</tool_call>", "qwen2", (None, None)),
        ("", "qwen3", (None, None)),
    ],
)
def test_a_family_has_its_parsers(template, model_type, expected):
    assert by_family(template, model_type) == Parsers(*expected)


@pytest.mark.parametrize(
    ("template", "renders"),
    [
        ("{% if tools %}x{% endif %}", True),
        ("{%- if not tools is defined %}{%- set tools = none %}{% endif %}", True),
        ("{{- tools | tojson }}", True),
        ("{% for message in messages %}{{ message.tools }}{% endfor %}", False),
        ("{{ message['tool_calls'] }}{{ 'you have no tools' }}", False),
        ("You have no tools: {{ messages }}", False),
    ],
)
def test_a_template_shows_tools_where_it_reads_them(template, renders):
    assert renders_tools(template) is renders


def test_the_installed_version_registers_every_parser_that_a_family_may_get():
    from consilium.engine.launch_args import installed_parsers

    names = installed_parsers()
    if names is None:
        pytest.skip("no vLLM is installed here")
    assert names.tools >= TOOL_PARSERS
    assert names.reasoning >= REASONING_PARSERS
