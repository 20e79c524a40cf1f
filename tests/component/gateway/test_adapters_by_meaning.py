"""Who answers by meaning, with a real embedding model: 20 talks that change their subject, all at once; long texts; who asks for no vectors.

How often 300 lines are answered rightly is a benchmark's to say: tests/bench/routing.py.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.bench.routing_lines import NOBODY, domains, talks
from tests.waiting import until_true

from consilium.embedding.client import Embedding, open_embeddings
from consilium.gateway.adapters import WITHOUT_EXAMPLES, Adapters
from consilium.gateway.decision import Decision
from consilium.gateway.meaning import Rules
from consilium.gateway.models import Target
from consilium.kernel.clock import SystemClock
from consilium.kernel.tables import Held

AUTO = Decision(Target("auto", ""), ("core",))


class Counted:
    """An embedding model that counts the texts which it is given."""

    def __init__(self):
        self.inner = open_embeddings(Embedding(threads=1))
        self.texts = 0

    async def embed(self, texts, kind="passage"):
        self.texts += len(texts)
        return await self.inner.embed(texts, kind)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """What is found is tested here, not how soon: a busy machine takes longer than a turn may."""
    monkeypatch.setattr("consilium.gateway.adapters.BUDGET_S", 60.0)


@pytest.fixture
async def model():
    made = Counted()
    yield made
    await made.inner.aclose()


def table(rows):
    """Return the table `adapters` as a follower holds it."""
    told = {}
    for row in rows:
        reference = f"{row.name}:{row.current[:16]}"
        version = {"sha": row.current, "reference": reference, "proof": "ok", "fits": {"core": ""}}
        told[row.name] = {
            "kind": "adapter",
            "current": row.current,
            "versions": [version],
            "domain": row.domain,
            "examples": list(row.examples),
        }
    return SimpleNamespace(held=Held("e", 1, told), age_s=0.0)


@asynccontextmanager
async def opened(rows, model):
    """Run what a gateway knows of adapters."""
    adapters = Adapters(table(rows), model, None, SystemClock())
    running = asyncio.create_task(adapters.run())
    try:
        yield adapters
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def answers(adapters, text, conversation=""):
    """Return the adapter that answers, or none, and the notes."""
    notes = []
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    found = await adapters.chosen(AUTO, body, conversation, notes)
    return (found.adapters[0].partition(":")[0] if found.adapters else NOBODY), notes


async def ready(adapters):
    """Wait until prototypes are made."""
    await until_true(lambda: adapters._prototypes.names, 60)


async def test_talks_keep_their_adapter_and_change_it_with_the_subject(model):
    """Of 60 turns that go on, most are too short to say what they are about; of 40 that are new, some are between two adapters. Measured: 45 and 33."""
    kept, changed, alone = [], [], []
    turns = talks()
    async with opened(domains().values(), model) as adapters:
        await ready(adapters)
        for step in range(5):
            for number in range(20):
                turn = turns[5 * number + step]
                begun = turns[5 * number + step - 1].domain if step else ""
                name, _ = await answers(adapters, turn.text, turn.talk)
                (kept if turn.domain == begun else changed).append(name == turn.domain)
                if turn.domain == begun:
                    alone.append((await answers(adapters, turn.text))[0] == turn.domain)
    assert (len(kept), len(changed)) == (60, 40)
    assert sum(kept) >= 43
    assert sum(changed) >= 31
    assert sum(kept) >= sum(alone) + 12, "what a conversation adds"


async def test_of_a_long_text_the_question_is_found_at_its_beginning_or_end(model):
    pasted = "lorem ipsum dolor sit amet " * 400
    question = (
        "How should I train in the last weeks before a marathon, and how do I recover from it?"
    )
    async with opened(domains().values(), model) as adapters:
        await ready(adapters)
        for text in (f"{question}\n\n{pasted}", f"{pasted}\n\n{question}"):
            name, notes = await answers(adapters, text)
            assert (name, notes) == ("sport", [])
        name, notes = await answers(adapters, "如何" * 2000)
        assert (name, notes) == (NOBODY, [])


async def test_an_adapter_without_examples_needs_less(model):
    by_domain = [replace(row, examples=()) for row in domains().values() if row.name == "garden"]
    rows = [row for row in domains().values() if row.name != "garden"]
    async with opened([*rows, *by_domain], model) as adapters:
        await ready(adapters)
        found = await adapters.explain("How do I prune roses, and which pests eat their leaves?")
        assert found.chosen.names[0].startswith("garden")
        needed = {each.name: each.threshold - each.more for each in found.candidates}
        assert needed["garden"] == pytest.approx(Rules().threshold - WITHOUT_EXAMPLES)
        assert needed["cooking"] == pytest.approx(Rules().threshold)


async def test_no_vector_is_made_while_no_adapter_says_what_it_is_for():
    model = Counted()
    rows = [SimpleNamespace(name="sport", current="0" * 64, domain="", examples=())]
    async with opened(rows, model) as adapters:
        assert await answers(adapters, "How do I train for a marathon?") == (NOBODY, [])
        found = await adapters.explain("How do I train for a marathon?")
    assert "what it is for" in found.chosen.why
    assert model.texts == 0


SMALL_TALK = """hello|Hello|HELLO!|hi|Hi there|hey|good morning|Good evening|ok|OK|okay|bye|Bye!|see you|test|Test|/exit|/quit|exit|help|Help!
thanks|Thank you|yes|no|cool|nice|hmm|sure|stop|continue|start|go on|how are you|who are you?|привет|Привет!|здравствуйте|Здравствуй|доброе утро|Добрый вечер
спасибо|Спасибо большое|пока|Пока!|до свидания|ок|ладно|да|нет|ясно|тест|помощь|Помоги!|стоп|выход|продолжай|как дела|Как дела?|кто ты?"""
OF_A_NEW_USER = (
    {
        "captain": "ships, sailing, the sea",
        "cook": "cooking, recipes",
        "lawyer": "law, courts, contracts",
    },
    {"sport": "training, recovery, endurance"},
    {
        "captain": "корабли, парусный спорт, море",
        "cook": "кулинария, рецепты",
        "lawyer": "право, суды, договоры",
    },
)


def described(told):
    """Return adapters that have a domain and no examples."""
    return [
        replace(row, name=name, domain=told[name], examples=())
        for name, row in zip(told, domains().values(), strict=False)
    ]


@pytest.mark.parametrize("told", [*OF_A_NEW_USER, OF_A_NEW_USER[0] | OF_A_NEW_USER[1]])
async def test_small_talk_is_nobodys(model, told):
    """Small talk that stands among the everyday texts, and some that does not."""
    texts = SMALL_TALK.replace("\n", "|").split("|")
    async with opened(described(told), model) as adapters:
        await ready(adapters)
        found = {text: (await adapters.explain(text)).chosen for text in texts}
        assert {text: each.names for text, each in found.items() if each.names} == {}
        assert await answers(adapters, "hello") == (NOBODY, [])


async def test_a_word_or_two_on_a_subject_find_its_adapter(model):
    asked = {
        "lawyer": ("law?", "contracts", "divorce", "договор", "Can I sue my landlord?"),
        "captain": ("sailing", "The sea", "yacht", "корабли"),
        "cook": ("recipe for soup", "soup", "Cooking!", "How do I bake bread?"),
        "sport": ("endurance", "marathon", "How long should I rest between runs?"),
    }
    async with opened(described(OF_A_NEW_USER[0] | OF_A_NEW_USER[1]), model) as adapters:
        await ready(adapters)
        for name, texts in asked.items():
            assert {text: (await answers(adapters, text))[0] for text in texts} == dict.fromkeys(
                texts, name
            )


async def test_small_talk_that_is_an_adapters_own_is_its(model):
    told = {"chat": "greetings, small talk, chatting", "qa": "software tests, test plans, bugs"}
    async with opened(described(told), model) as adapters:
        await ready(adapters)
        assert (await answers(adapters, "hello"))[0] == "chat"
        assert (await answers(adapters, "test"))[0] == "qa"
