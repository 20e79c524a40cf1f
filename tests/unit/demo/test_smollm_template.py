"""The chat format of the demo model: its own without tools, and tools where there are some."""

import json

import pytest

from consilium.demo import smollm

OWN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM,"
    " trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What the wheel's file holds; tests/component/demo/test_smollm.py compares."""
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}


def render(template, messages, **options):
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = options.pop("tools", None)
    (text,), _ = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        add_generation_prompt=True,
        **options,
    )
    return text


def says(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    "messages",
    [
        [says("user", "Hi")],
        [says("system", "Be brief."), says("user", "Hi")],
        [says("user", "Hi"), says("assistant", "Hello!"), says("user", " And?\n")],
        [says("user", "Hi"), says("system", "Now shout."), says("user", "Hm")],
    ],
)
def test_without_tools_it_is_the_models_own(messages):
    assert render(smollm.TEMPLATE.read_text(), messages) == render(OWN, messages)


def test_tools_are_shown_before_the_system_message():
    text = render(
        smollm.TEMPLATE.read_text(),
        [says("system", "Be brief."), says("user", "1 + 1?")],
        tools=[TOOL],
    )
    head, _, rest = text.partition("<|im_end|>\n")
    assert head.startswith("<|im_start|>system\n<tools>\n")
    assert json.loads(head.split("\n")[2]) == TOOL
    assert head.endswith("</tool_call>\n\nBe brief.")
    assert rest == "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"


def test_calls_and_results_of_earlier_turns_are_told():
    function = {"name": "add", "arguments": {"a": 1}}
    text = render(
        smollm.TEMPLATE.read_text(),
        [
            says("user", "1 + 1?"),
            says("assistant", None, tool_calls=[{"type": "function", "id": "1", "function": function}]),
            says("tool", "2", tool_call_id="1"),
            says("tool", "3", tool_call_id="2"),
        ],
        tools=[TOOL],
    )  # fmt: skip
    assert text.endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
