"""No sentence of vLLM's advises an option of its command line: the setting here stands in its place."""

import ast
import json
import re
from pathlib import Path

import pytest

from consilium.engine.launch_args import RESERVED, installed_fields, installed_source
from consilium.engine.setting_words import CLOSED, document_in_our_words, in_our_words

OPTION = re.compile(r"(?<![\w-])--[a-z]")
EXTRA = re.compile(r"extra_args\.([a-z0-9_]+)")
ASKED = ("entrypoints/openai", "entrypoints/generate", "entrypoints/serve", "entrypoints/pooling", "renderers", "sampling_params.py", "v1/engine/input_processor.py",
         "v1/engine/async_llm.py", "v1/structured_output", "multimodal", "inputs", "lora")  # fmt: skip
"""Where vLLM words what it tells a caller."""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
         '"auto" tool choice requires engine.tool_parser and engine.tool_parser to be set'),
        ("Set max_logprobs (--max-logprobs) to at least 30.", "Set max_logprobs (engine.extra_args.max_logprobs) to at least 30."),
        ("Please set --reasoning-parser and/or --reasoning-config to use it.",
         "Please set engine.reasoning_parser and/or engine.extra_args.reasoning_config to use it."),
        ("You must set `--enable-prompt-embeds` to input `prompt_embeds`.",
         "prompt_embeds is not taken here: callers would send tensors that the engine unpacks. Send text, or images as data"),
        ("Chat template is passed with request, but --trust-request-chat-template is not set. Refused request with untrusted chat template.",
         "A chat template is not taken from a request. Leave it out, or set engine.chat_template"),
        ("requires the V2 model runner (VLLM_USE_V2_MODEL_RUNNER=1).", "requires the V2 model runner (engine.env.VLLM_USE_V2_MODEL_RUNNER=1)."),
        ("set `VLLM_PLUGINS=x`", f"set `{CLOSED}=x`"),
        ("`--tensor-parallel-size` (3)", "`topology.tensor_parallel` (3)"),
        ("a -- b, x--y and ---", "a -- b, x--y and ---"),
        ("nothing to do", "nothing to do"),
    ],
)  # fmt: skip
def test_an_option_becomes_a_setting(said, words):
    assert in_our_words(said, executor="core") == words


def test_another_executor_has_its_own_keys():
    said = "set --tool-call-parser, --model and --pipeline-parallel-size"
    assert in_our_words(said, executor="clerk") == (
        "set executors.clerk.engine.tool_parser, executors.clerk.model and executors.clerk.pipeline_parallel"
    )


def test_only_the_sentence_of_an_error_changes():
    told = {"error": {"message": "use --max-logprobs", "type": "T", "param": "--p", "code": 400}}
    assert json.loads(document_in_our_words(json.dumps(told).encode(), executor="core")) == {
        "error": {**told["error"], "message": "use engine.extra_args.max_logprobs"}
    }
    for other in (b"--max-logprobs", b'{"error": "--x"}', b'["--x"]', b'{"error": {}}--'):
        assert document_in_our_words(other, executor="core") == other


def sentences() -> list[str]:
    """Return every text of the installed vLLM's code for requests that names an option, comments and docstrings left out."""
    source = installed_source()
    if source is None:
        return []
    root = source.parent.parent
    files = [file for name in ASKED for file in ([root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py")))]  # fmt: skip
    return [text for file in files for text in _texts(file) if OPTION.search(text)]


def _texts(file: Path) -> list[str]:
    tree = ast.parse(file.read_text("utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in found if isinstance(node.value, str) and id(node) not in docs]


def test_no_sentence_of_the_installed_version_names_an_option_afterwards():
    found, fields = sentences(), installed_fields()
    if fields is None:
        pytest.skip("no vLLM is installed here")
    assert len(found) > 20, "vLLM words its sentences elsewhere now"
    for said in found:
        words = in_our_words(said, executor="core")
        assert not OPTION.search(words), said
        for name in EXTRA.findall(words):
            assert name not in RESERVED, said
