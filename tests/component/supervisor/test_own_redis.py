"""A real Redis as a part of the cluster."""

from __future__ import annotations

import signal

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
        probe=lambda: (probes.redis_answers(url), ""),
    ), url


def test_our_own_redis_keeps_its_data_over_a_kill(site: Site) -> None:
    import redis

    work, url = redis_of(site)
    running = Running(site.supervisor({"redis": work}))
    until(lambda: running.state("redis") == "up")
    assert not probes.redis_answers(url.replace("redis://:", "redis://:x")), (
        "a wrong password is no answer"
    )
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
