"""A model without a chat template: ours is used, and said; and a mixture of experts. Each is an engine of its own, ended before the next test file."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .conftest import Asker, running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def base_moe(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asker]:
    """A mixture of experts whose template was taken away: both questions with one engine."""
    folder = tmp_path_factory.mktemp("models")
    async for asker in running(folder, "tiny-moe", template=False):
        yield asker


async def test_chat_goes_through_our_plain_template(base_moe: Asker) -> None:
    assert base_moe.engine.info().template == "plain"
    said = await base_moe.chat("Hello", stream=True)
    assert said.head.status == 200
    assert said.head.template == "plain"
    assert said.tail.usage.completion_tokens == 8


async def test_the_plain_template_is_words_and_names(base_moe: Asker) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    tokens = (await base_moe.ask("tokenize", messages=messages)).json["tokens"]
    assert (await base_moe.ask("detokenize", tokens=tokens)).json["prompt"] == "Be kind.\n\nUser: Hi\nAssistant:"


async def test_experts_answer_the_same_in_both_ways(base_moe: Asker) -> None:
    whole = await base_moe.ask("completions", prompt="Once", max_tokens=6, temperature=0)
    stream = await base_moe.ask("completions", prompt="Once", max_tokens=6, temperature=0, stream=True)
    assert whole.text == stream.text
    assert whole.tail.usage == stream.tail.usage
