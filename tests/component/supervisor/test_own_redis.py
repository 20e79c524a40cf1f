"""A real Redis as a part of the cluster."""

from __future__ import annotations

import signal
import socket
from threading import Thread

import pytest
from tests.component.supervisor.running import Running, Site
from tests.waiting import until

from consilium.kernel.ports import free_port
from consilium.kernel.private_file import write_private
from consilium.supervisor import commands, probes, processes
from consilium.supervisor.factories import derive, own_redis_url
from consilium.supervisor.part_process import ProcessWork
from consilium.supervisor.redis_server import choose_binary


def redis_of(site: Site) -> tuple[ProcessWork, str]:
    site.folder.make_secrets()
    secret, port = site.folder.secret.read_text(), free_port()
    url = own_redis_url(secret, port)
    conf = site.folder.redis / "redis.conf"
    write_private(
        conf,
        commands.redis_conf(port=port, password=derive(secret, "redis"), folder=site.folder.redis),
    )
    command = commands.redis_command(choose_binary(), conf)
    return ProcessWork(
        command,
        log=site.folder.log("redis"),
        environment=site.environment,
        probe=lambda: (probes.redis_ready(url)[0], ""),
    ), url


def test_our_own_redis_keeps_its_data_over_a_kill(site: Site) -> None:
    import redis

    work, url = redis_of(site)
    running = Running(site.supervisor({"redis": work}))
    until(lambda: running.state("redis") == "up")
    ready, _, heard = probes.redis_ready(url.replace("redis://:", "redis://:x"))
    assert (ready, heard) == (False, True), "a wrong password is no answer, but was heard"
    with redis.Redis.from_url(url) as client:
        assert client.info("server")["redis_version"] >= "7"
        client.set("k", "v")
        client.execute_command("WAITAOF", 1, 0, 2000)
    processes.send(running.supervisor.cluster.parts["redis"].pids[0], signal.SIGKILL)
    until(
        lambda: (
            running.supervisor.cluster.parts["redis"].restarts == 1
            and running.state("redis") == "up"
        )
    )
    with redis.Redis.from_url(url) as client:
        assert client.get("k") == b"v"
    assert running.stop() == 0
    assert processes.marked(site.cluster.mark) == ()


@pytest.mark.parametrize(
    ("reply", "heard"),
    [(b"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", True), (b"", False)],
)
def test_a_redis_that_loads_is_heard_and_one_that_hangs_up_is_not(
    reply: bytes, heard: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(reply)

        serving = Thread(target=serve)
        serving.start()
        url = f"redis://:secret@127.0.0.1:{server.getsockname()[1]}/0"
        assert probes.redis_ready(url) == (False, "", heard)
        serving.join(60)
    assert probes.redis_ready(url) == (False, "", False)


def test_a_stopped_redis_is_shown_as_silent_and_is_up_again_when_it_goes_on(site: Site) -> None:
    work, _ = redis_of(site)
    running = Running(site.supervisor({"redis": work}))
    until(lambda: running.state("redis") == "up")
    (redis,) = running.part("redis").pids
    processes.send(redis, signal.SIGSTOP)
    spent = until(lambda: running.state("redis") == "silent")
    print(f"shown after {spent:.2f} s")
    assert running.supervisor.cluster.phase == "degraded"
    assert running.part("redis").down > 0
    processes.send(redis, signal.SIGCONT)
    until(lambda: running.state("redis") == "up")
    assert running.part("redis").restarts == 0
    assert running.stop() == 0
