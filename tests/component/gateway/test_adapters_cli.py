"""`consilium adapters` from another machine: over the gateway's HTTP with a key, to the room as a process, with a replica that reports."""

import asyncio
import json

import httpx
import pytest
from tests.component.gateway.adapters_room import AdaptersRoom, Replica, reporting
from tests.unit.lora_router import made

from consilium.cli import adapter_upload
from consilium.cli.app import EXIT_NOT_FOUND, main
from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError


@pytest.fixture
def room(tmp_path):
    running = AdaptersRoom(tmp_path / "room").start()
    yield running
    running.kill()


@pytest.fixture
async def command(gateway, room, capsys, monkeypatch):
    """Run the command as somebody elsewhere does; returns exit code, stdout, stderr."""
    bench = await gateway(rooms=[room.reached])
    key = await bench.new_key(scopes=frozenset({"lora_router.write"}))
    reader = await bench.new_key(scopes=frozenset({"lora_router.read"}))
    monkeypatch.setenv("COLUMNS", "300")

    async def run(*words, key=key):
        capsys.readouterr()
        given = ["adapters", *words, "--endpoint", f"{bench.url}/v1", "--key", key]
        try:
            code = await asyncio.to_thread(main, given)
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr()
        return code, said.out, said.err

    run.endpoint, run.reader, run.bench = Endpoint(f"{bench.url}/v1", key), reader, bench
    return run


async def shown(command, name="sport"):
    _, out, _ = await command("show", name, "--output", "json")
    return json.loads(out)


@pytest.fixture
async def replica(room):
    one = Replica(room)
    task = await reporting(one)
    yield one
    task.cancel()


def adapter(tmp_path, seed=1, **over):
    return str(
        made.write(tmp_path / f"lora-{seed}", made.factors(made.modules(), seed=seed), **over)
    )


async def test_the_whole_life_of_an_adapter(command, room, replica, tmp_path):
    code, out, err = await command("ls")
    assert (code, "consilium adapters add PATH" in out) == (0, True)
    words = ("--name", "sport", "--domain", "running", "--example", "How?", "--placement", "ram")
    code, out, err = await command("add", adapter(tmp_path), *words)
    assert code == 0, err
    assert "Stored sport:" in out
    assert "rank 8" in out

    async def is_proved():
        return (await shown(command))["versions"][0]["proof"] == "ok"

    await command.bench.eventually(is_proved)
    found = await shown(command)
    sha = found["current"]
    assert (found["domain"], found["examples"]) == ("running", ["How?"])

    code, out, _ = await command("warm", "sport")
    assert (code, "slot 0 of core/replica-" in out) == (0, True)
    code, out, _ = await command("ls")
    (line,) = [line for line in out.splitlines() if line.startswith("sport")]
    assert sha[:12] in line
    assert "slot 0 of core/replica-" in line
    assert "never" in line
    assert "ok" in line
    assert "in the store" in out

    code, out, _ = await command("pin", "sport")
    assert (code, out) == (0, "sport is kept in vram.\n")
    code, out, _ = await command("place", "sport", "ssd")
    assert (code, out) == (0, "sport is kept in ssd.\n")
    code, out, _ = await command("evict", "sport")
    assert (code, out) == (0, "sport is now in: SSD.\n")

    code, out, _ = await command("add", adapter(tmp_path, 2), "--name", "sport")
    assert "The version before answers until" in out or "It answers" in out

    async def is_switched():
        return (await shown(command))["current"] != sha

    await command.bench.eventually(is_switched)
    code, out, _ = await command("switch", "sport", sha[:8])
    assert (code, out) == (0, f"sport:{sha[:12]} answers now.\n")
    code, out, _ = await command("show", "sport")
    assert code == 0
    assert "running" in out
    assert out.count(" ok") == 2

    code, out, err = await command("rm", f"sport:{sha[:8]}")
    assert code == 1
    assert "answers" in err
    code, out, _ = await command("rm", "sport", "--wait", "5")
    assert (code, "no slot holds them" in out) == (0, True)
    assert not [
        path for path in (room.folder / "lora_router" / "store").rglob("*") if path.is_file()
    ]


async def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(command, room, tmp_path):
    code, _, err = await command("add", adapter(tmp_path), "--name", "Sport")
    assert code == 1
    assert "'Sport' cannot be an adapter's name: small letters" in err
    assert not list((room.folder / "lora_router").rglob("*.safetensors"))


async def test_without_an_engine_it_waits_and_force_does_not(command, tmp_path):
    code, out, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert code == 0, err
    assert "No executor that runs now fits it" in out
    assert "engine.lora" in out
    found = await shown(command)
    assert found["versions"][0]["proof"] == "unproven"
    sha = found["versions"][0]["sha"]
    code, _, err = await command("switch", "sport", sha[:6], "--force")
    assert code == 0, err


async def test_what_fits_no_engine_is_refused_and_force_stores_it(command, room, tmp_path):
    other = json.dumps(made.TINY | {"hidden_size": 128})
    task = await reporting(Replica(room, base_config_json=other))
    try:
        await command.bench.eventually(lambda: heard(room))
        code, out, err = await command("add", adapter(tmp_path), "--name", "sport")
        assert (code, out) == (1, ""), err
        assert "core: model.layers.0" in err or "core: layers.0" in err
        assert "shape_differs" in err
        assert "--force" in err
        code, out, _ = await command("ls")
        assert (code, "No adapters." in out) == (0, True)
        code, out, err = await command("add", adapter(tmp_path), "--name", "sport", "--force")
        assert code == 0, err
        assert "shape_differs" in out
        code, out, err = await command("add", adapter(tmp_path), "--name", "sport")
        assert (code, "shape_differs" in err) == (1, True)
    finally:
        task.cancel()


async def heard(room):
    async with httpx.AsyncClient() as client:
        page = await client.get(f"http://127.0.0.1:{room.page}/metrics")
    lines = page.text.splitlines()
    return any(line.startswith("consilium_lora_replicas{") and " 1" in line for line in lines)


async def test_a_replica_that_dies_is_told_as_silent_and_then_not_at_all(command, room, tmp_path):
    task = await reporting(Replica(room, wait_s=30.0))
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport", "--force")
    assert code == 0, err
    code, out, _ = await command("warm", "sport")
    assert (code, "silent" in out) == (0, False)
    task.cancel()

    async def is_silent():
        found = (await shown(command))["versions"][0]["residences"]
        return bool(found) and found[0]["silent_since"] > 0

    await command.bench.eventually(is_silent)

    async def is_gone():
        return not (await shown(command))["versions"][0]["residences"]

    await command.bench.eventually(is_gone)


async def test_why_says_who_would_answer(command, room):
    bench = command.bench
    everything = await bench.new_key(scopes=frozenset({"generate", "lora_router.read"}))
    code, out, err = await command("why", "how do I recover after a race?", key=everything)
    assert (code, out.startswith("the plain model would answer (none)")) == (0, True), err


async def test_what_is_stored_already_is_not_sent_again(command, tmp_path, monkeypatch):
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert code == 0, err
    monkeypatch.setattr(adapter_upload, "send", None)
    code, out, err = await command("add", adapter(tmp_path), "--name", "sport", "--force")
    assert (code, "Stored before, and its files are whole: sport:" in out) == (0, True), err
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport", "--domain", "running")
    assert code == 0, err
    found = await shown(command)
    assert (found["domain"], len(found["versions"])) == ("running", 1)


async def test_what_is_stored_already_and_damaged_is_sent_again(command, room, tmp_path):
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert code == 0, err
    (file,) = (room.folder / "lora_router" / "store").rglob("adapter_model.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # its size says nothing
    code, out, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert (code, "Stored sport:" in out) == (0, True), err
    assert file.read_bytes() == whole
    room.kill()
    file.unlink()
    room.start()
    (version,) = (await shown(command))["versions"]
    assert version["proof"] == "damaged"
    assert "adapter_model.safetensors is gone" in version["remarks"][0]
    code, out, _ = await command("ls")
    assert "damaged" in out
    code, out, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert (code, "Stored sport:" in out) == (0, True), err
    assert file.read_bytes() == whole
    assert (await shown(command))["versions"][0]["proof"] == "unproven"


async def test_what_was_found_unsound_is_tried_anew_when_it_is_added_again(
    command, replica, tmp_path, monkeypatch
):
    replica.canary = "PROOF_FAILED"
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert code == 0, err

    async def has_failed():
        return (await shown(command))["versions"][0]["proof"] == "failed"

    async def is_sound():
        return (await shown(command))["versions"][0]["proof"] == "ok"

    await command.bench.eventually(has_failed)
    replica.canary = "PROOF_OK"
    monkeypatch.setattr(adapter_upload, "send", None)
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport")
    assert code == 0, err
    await command.bench.eventually(is_sound)


async def test_one_that_a_role_uses_stays(command, room, tmp_path):
    room.kill()
    room.sections["roles"] = {"coach": {"frame": "You train.", "adapters": ["sport@0.5"]}}
    room.start()
    code, _, err = await command("add", adapter(tmp_path), "--name", "sport", "--force")
    assert code == 0, err
    code, _, err = await command("rm", "sport")
    assert code == 1
    assert "'sport' answers in coach, so it stays: take it from roles.coach.adapters" in err
    async with httpx.AsyncClient(base_url=command.endpoint.root) as client:
        headers = {"Authorization": f"Bearer {command.endpoint.key}"}
        answer = await client.delete("/v1/adapters/sport", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert (await shown(command))["name"] == "sport"


async def test_what_goes_wrong_says_what_to_do(command, tmp_path):
    code, _, err = await command("show", "sport")
    assert (code, "There is no adapter" in err or "No such adapter" in err) == (
        EXIT_NOT_FOUND,
        True,
    )
    broken = made.write(tmp_path / "broken", use_dora=True)
    code, _, err = await command("add", str(broken), "--name", "sport")
    assert code == 1
    assert "DoRA" in err or "dora" in err
    code, _, err = await command("add", str(tmp_path / "gone"), "--name", "sport")
    assert "there is no such folder" in err
    code, _, err = await command("add", adapter(tmp_path), "--name", "Sport")
    assert "cannot be an adapter's name" in err
    code, _, err = await command("ls", key="sk-consilium-wrong")
    assert code == 1
    code, _, _ = await command("ls", key=command.reader)
    assert code == 0
    code, _, err = await command("add", adapter(tmp_path), "--name", "a", key=command.reader)
    assert (code, "lora_router.write" in err) == (1, True)


async def test_a_large_adapter_survives_connections_that_break(
    command, room, tmp_path, monkeypatch
):
    monkeypatch.setattr(adapter_upload, "PIECE_BYTES", 256 << 10)
    folder = made.write(tmp_path / "big", made.factors({f"model.layers.{n}.self_attn.q_proj": (4096, 4096) for n in range(4)}))  # fmt: skip
    steps, paused = [], []
    real = adapter_upload._Sending._request

    def breaking(self, method, url, **more):
        if method == "PUT" and len(steps) % 3 == 2:
            steps.append("broken")
            raise ConsiliumError("upstream_down", name=url, retry_after=1)
        steps.append(method)
        return real(self, method, url, **more)

    monkeypatch.setattr(adapter_upload._Sending, "_request", breaking)
    told = []
    answer = await asyncio.to_thread(
        lambda: adapter_upload.send(command.endpoint, folder, {"name": "big"}, told.append, sleep=paused.append)
    )  # fmt: skip
    assert answer["name"] == "big"
    assert steps.count("broken") >= 2
    assert len(paused) == steps.count("broken")
    sending = [step.done for step in told if step.what == "sending"]
    assert sending == sorted(sending)
    assert sending[-1] == told[-1].total
    sha = (await shown(command, "big"))["versions"][0]["sha"]
    stored = room.folder / "lora_router" / "store" / sha[:2] / sha / "adapter_model.safetensors"
    assert stored.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


async def test_an_upload_goes_on_in_the_next_run(command, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_upload, "PIECE_BYTES", 4 << 10)
    folder = made.write(tmp_path / "lora")
    seen = []
    real = adapter_upload._Sending._request

    def stopping(self, method, url, **more):
        seen.append(method)
        if len(seen) == 8:
            raise EOFError("the command was killed")
        return real(self, method, url, **more)

    monkeypatch.setattr(adapter_upload._Sending, "_request", stopping)

    def send():
        adapter_upload.send(command.endpoint, folder, {"name": "a"}, lambda _step: None)

    with pytest.raises(EOFError):
        await asyncio.to_thread(send)
    before = len(seen)
    await asyncio.to_thread(send)
    pieces = sum(-(-(folder / name).stat().st_size // (4 << 10)) for name in adapter_upload.FILES)
    assert (before, len(seen) - before) == (8, 2 + pieces - 5), "what was sent is not sent again"
