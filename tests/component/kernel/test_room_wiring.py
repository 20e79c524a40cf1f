"""What `build` may ask of the skeleton beside its services: background work, a drain of its own, letting go."""

import asyncio
import subprocess
import sys

import pytest
from tests.greeter.running import REPOSITORY

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.house import House
from consilium.kernel.service_config import Address

PROGRAM = """
import asyncio, os, signal, sys
from consilium.kernel import service
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.rooms import Room
from consilium.kernel.service import Wiring
from consilium.kernel.service_config import ServicesView

async def work(house):
    if mode == "fails":
        raise ConsiliumError("jobs_failed", reason="the queue is damaged")
    if mode == "ends":
        return
    try:
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    finally:
        print("background let go, draining", house.draining.is_set(), flush=True)

async def drain(seconds):
    print("drain", seconds, flush=True)
    await asyncio.sleep(600 if mode == "hangs" else 0.1)
    print("drained", flush=True)

async def aclose():
    print("closed", flush=True)

async def build(view, house):
    if mode == "ends":
        asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)
    return Wiring(background=[work(house)], drain=drain, aclose=aclose)

mode = sys.argv[1]
room = Room("lonely", "lonely", stop_s=2.0 if mode == "hangs" else 90.0)
sys.exit(service.main(room, ServicesView, build, sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("mode", "words", "code", "out"),
    [
        ("fails", (), 80, ["closed"]),
        ("ends", (), 0, ["drain 89.0", "drained", "closed"]),
        (
            "works",
            (),
            0,
            ["drain 89.0", "drained", "background let go, draining True", "closed"],
        ),
        ("hangs", (), 0, ["drain 1.6", "background let go, draining True", "closed"]),
        (
            "works",
            ("--settle", "0.5"),
            0,
            ["drain 89.0", "drained", "background let go, draining True", "closed"],
        ),
    ],
)
def test_background_drain_and_close_come_in_their_order(tmp_path, mode, words, code, out):
    (tmp_path / "token").write_text("of-this-test")
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, mode,
         "--config", str(tmp_path / "config.json"), "--listen", "127.0.0.1:0", *words],
        env={"PYTHONPATH": str(REPOSITORY / "services")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()) == (code, out), done.stderr
    assert "never awaited" not in done.stderr
    if mode == "fails":
        assert "error: Jobs cannot be taken or worked on: the queue is damaged" in done.stderr


async def test_the_house_says_which_service_it_does_not_find_and_closes_its_channels(tmp_path):
    house = House("jobs", tmp_path, "t", {"near": Address(grpc="127.0.0.1:1"), "no": Address()})
    for name in ("far", "no"):
        with pytest.raises(ConsiliumError) as told:
            house.channel(name)
        assert f"services.{name}.grpc" in told.value.public()
    channel = house.channel("near")
    await house.aclose()
    await house.aclose()
    await channel.aclose()


async def test_draining_is_seen_when_the_file_comes(tmp_path):
    house = House("jobs", tmp_path, "t")
    looking = asyncio.create_task(house.watch_draining())
    await asyncio.sleep(0.3)
    assert not house.draining.is_set()
    (tmp_path / "draining").touch()
    await asyncio.wait_for(looking, 60)
    assert house.draining.is_set()
