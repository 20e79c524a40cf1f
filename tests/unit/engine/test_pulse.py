"""Whether a core still answers: one question at a time, and a core that makes steps is not silent."""

import asyncio

from tests.waiting import until_true

from consilium.engine.pulse import Pulse


class Core:
    def __init__(self) -> None:
        self.now, self.steps, self.asked = 0.0, 0, 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None

    async def ask(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        await self.answers.wait()

    def pulse(self) -> Pulse:
        return Pulse(self.ask, lambda: self.steps, lambda: self.now, every_s=0.0)


async def test_a_core_that_owes_an_answer_is_silent_until_it_answers_or_makes_a_step() -> None:
    core = Core()
    pulse = core.pulse()
    assert pulse.silent_s() == 0.0
    running = asyncio.create_task(pulse.run())
    await until_true(lambda: core.asked > 3)
    core.answers.clear()
    asked = core.asked + 1
    await until_true(lambda: core.asked == asked or pulse._asked is not None)
    core.now += 5.0
    assert pulse.silent_s() == 5.0
    core.steps += 1
    assert pulse.silent_s() == 0.0  # it computes
    core.now += 2.0
    assert pulse.silent_s() == 2.0
    core.answers.set()
    await until_true(lambda: core.asked > asked)
    running.cancel()


async def test_a_core_that_died_is_anothers_to_tell() -> None:
    core = Core()
    core.error = RuntimeError("it is dead")
    pulse = core.pulse()
    await asyncio.wait_for(pulse.run(), 60)
    assert pulse.silent_s() == 0.0
