"""Every field that a profile writes is a field of the installed engine's own request models; read as text, since importing the engine takes seconds."""

import ast
import importlib.util
from pathlib import Path

import pytest
from tests.unit.gateway.full_profile import FULL

from consilium.gateway.profiles import apply

MODELS = {
    "chat": ("openai/chat_completion/protocol.py", "ChatCompletionRequest"),
    "completions": ("openai/completion/protocol.py", "CompletionRequest"),
    "responses": ("openai/responses/protocol.py", "ResponsesRequest"),
    "tokenize": ("serve/tokenize/protocol.py", "TokenizeChatRequest"),
}


@pytest.mark.parametrize("route", MODELS)
def test_the_engine_knows_the_fields(route):
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no engine is installed here")
    file, name = MODELS[route]
    tree = ast.parse(
        (Path(spec.submodule_search_locations[0]) / "entrypoints" / file).read_text(
            encoding="utf-8"
        )
    )
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}
    assert set(apply(FULL, {}, route)) <= fields
