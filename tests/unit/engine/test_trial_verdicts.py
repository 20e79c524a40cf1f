"""What of a trial is a verdict on the adapter, and what says only that its files could not be read just now."""

from contextlib import asynccontextmanager

import pytest
from tests.unit.engine.test_adapter_agent import SAME, Stage, row

from consilium.engine.canary import Verdict
from consilium.kernel.errors import ConsiliumError

pytestmark = pytest.mark.asyncio
SILENT = ConsiliumError("disk_silent", "/store/1", seconds="30", retry_after_s=5.0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SILENT, []),
        (OSError(5, "Input/output error"), []),
        (ConsiliumError("deadline", name="the room of adapters", seconds=30), []),
        (ConsiliumError("adapter_refused", reason="other files", check="content"), ["PROOF_FAILED"]),
        (RuntimeError("no such module"), ["PROOF_FAILED"]),
    ],
)  # fmt: skip
async def test_a_disk_that_is_silent_during_a_trial_is_no_verdict(error, told):
    async with Stage() as stage:

        @asynccontextmanager
        async def broken(_target):
            raise error
            yield

        async def try_out(target):
            async with stage.desk.hold(target.reference):
                return Verdict("ok", "{}", SAME)

        stage.desk.files, stage.canary.try_out = broken, try_out
        move = {"id": 1, "kind": "MOVE_KIND_TRY", "reference": "a1:sha"}
        stage.room.answers.put_nowait({"version": 5, "whole": True, "targets": [row(1)], "moves": [move]})  # fmt: skip
        stage.run()
        await stage.room.until(lambda report: 1 in report["done"])
        proofs = [tried["proof"] for report in stage.room.reports for tried in report["tried"]]
        assert proofs == told
        failures = [use.get("failure") for report in stage.room.reports for use in report["uses"]]
        assert any(failures), "why it could not be read is told all the same"
