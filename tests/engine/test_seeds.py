"""A seed gives the same text, however a prompt was read: alone in one step, or in a crowd over several. And none of it ends the engine."""

import asyncio
import itertools

import pytest

from .conftest import PLACES, Asker

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

CROWD = 48
LONG = "a prompt of which a few fill a step of the engine " * 29
_salts = itertools.count()


async def seeded(dense: Asker, number: int, seed: int = 7) -> str:
    """Return what comes for a long prompt of that number, which is read afresh each time."""
    said = await dense.ask(
        "completions",
        prompt=f"{number:03} {LONG}",
        seed=seed,
        temperature=1.0,
        max_tokens=8,
        ignore_eos=True,
        logprobs=0,
        return_token_ids=True,
        cache_salt=f"s{next(_salts)}",
    )
    assert said.head.status == 200, said.body
    return str(said.json["choices"][0]["token_ids"])


async def test_seeded_prompts_that_are_read_over_several_steps_say_what_they_say_alone(
    dense: Asker,
) -> None:
    alone = [await seeded(dense, number) for number in range(PLACES)]
    assert alone[0] == await seeded(dense, 0)
    assert alone[0] != await seeded(dense, 0, seed=8)
    crowd = await asyncio.gather(*(seeded(dense, number % PLACES) for number in range(CROWD)))
    assert crowd == [alone[number % PLACES] for number in range(CROWD)]
    assert not dense.engine._engine.errored


async def test_a_long_seeded_prompt_beside_answers_that_are_being_written(dense: Asker) -> None:
    alone = await seeded(dense, 0)
    writing = [asyncio.ensure_future(dense.chat(max_tokens=64)) for _ in range(2)]
    beside = await asyncio.gather(*(seeded(dense, number) for number in (0, 1, 2, 3, 4, 0)))
    assert beside[0] == beside[5] == alone
    assert {said.head.status for said in await asyncio.gather(*writing)} == {200}
