"""Before records in Redis change they are copied, and a program that is rolled back to says how to go back to the copy."""

import pytest
from tests.contract.test_redis_migration import RECORDS, WHOLE, Step, fill, opened, shape

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.redis_records import look, restore, users
from consilium.supervisor import pod_rollback

RENAME = """
for number = 1, 6000 do
  local name = prefix .. ':test:' .. number
  redis.call('HSET', name, 'color', redis.call('HGET', name, 'colour'))
  redis.call('HDEL', name, 'colour')
end
"""
NEW = (Step(1), Step(2, RENAME, ("test",)))
LATER = (*NEW, Step(3, "redis.call('SET', prefix .. ':later:1', 'new')", ("later",)))
COPY = "csl:before:test:2:test:7"


@pytest.fixture
def settings(own_valkey):
    own_valkey.start()
    return RedisSettings(url=own_valkey.url, timeout_s=60)


@pytest.fixture
def words(tmp_path, settings):
    """What the chart's Job is called with."""
    config = tmp_path / "consilium.yaml"
    config.write_text(f"redis: {{url: '{settings.url.get_secret_value()}'}}\n")
    return ["--config", str(config), "--release", "mind", "--name", "mind-consilium", "--namespace", "llm", "--asked", str(tmp_path / "records")]  # fmt: skip


async def test_a_step_copies_what_it_changes_and_the_way_back_leads_over_every_copy(
    own_valkey, settings
):
    await fill(own_valkey.url)
    async with opened(own_valkey.url, ()) as server:
        await server.redis.set("csl:later:1", "old", ex=900)
        await server.redis.set("csl:other:1", "stays")
    async with opened(own_valkey.url, LATER) as server:
        await server.prepare()
        assert await server.redis.get("csl:later:1") == "new"
        assert await server.redis.hget(COPY, "colour") == "7"
        await server.redis.hset("csl:test:9999", "color", "made after the step")
    stored = look(settings, "test")
    assert (stored.version, [copy.version for copy in stored.copies]) == (3, [3, 2])
    assert stored.back_to(1).kinds == ("test",)
    assert restore(settings, "test", 2) == 1
    assert shape(own_valkey.url) == WHOLE[0]
    async with opened(own_valkey.url, NEW[:1]) as server:
        assert await server.redis.get("csl:later:1") == "old"
        assert 0 < await server.redis.ttl("csl:later:1") <= 900
        assert await server.redis.get("csl:other:1") == "stays"
        assert not await server.redis.exists("csl:test:9999", COPY, "csl:before:test:2")
        await server.prepare()  # the old program takes them up
    async with opened(own_valkey.url, NEW) as server:  # and the new one once more
        await server.prepare()
        assert len(await server.redis.keys("csl:before:test:2:*")) >= RECORDS


async def test_without_a_copy_nothing_is_changed(own_valkey, settings):
    await fill(own_valkey.url)
    async with opened(own_valkey.url, NEW) as server:
        await server.prepare()
        await server.redis.delete("csl:before:test:2")
    assert look(settings, "test").back_to(1) is None
    with pytest.raises(ConsiliumError, match="conflict"):
        restore(settings, "test", 2)
    assert shape(own_valkey.url) == WHOLE[1]


async def test_copies_of_the_last_two_steps_stay(own_valkey, settings):
    await fill(own_valkey.url)
    more = tuple(
        Step(number, "redis.call('PING')", ("test",)) for number in range(LATER[-1].version + 1, 6)
    )
    async with opened(own_valkey.url, (*LATER, *more)) as server:
        await server.prepare()
        assert not await server.redis.keys("csl:before:test:[23]*")
    assert [copy.version for copy in look(settings, "test").copies] == [5, 4]


def test_a_change_names_its_kinds():
    with pytest.raises(ValueError, match="names the kinds"):
        Step(2, RENAME)


async def test_going_back_is_refused_with_the_commands_and_done_when_asked_for(
    own_valkey, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pod_rollback, "KNOWN", {"test": 1})
    monkeypatch.setattr(pod_rollback, "LEAVES_S", 0.0)
    await fill(own_valkey.url)
    assert pod_rollback.main(words) == 0
    async with opened(own_valkey.url, NEW) as server:
        await server.prepare()
        assert pod_rollback.main(words) == 1
        said = capsys.readouterr().err
        assert (
            "have version 2, and the revision you go back to knows 1. Nothing was changed." in said
        )
        assert "UTC, made before version 2. What came later is lost (test):" in said
        assert "kubectl -n llm delete rayservice mind-consilium --cascade=foreground" in said
        assert "create configmap mind-consilium-restore --from-literal=records='test 2'" in said
        assert shape(own_valkey.url) == WHOLE[1]
        (tmp_path / "records").write_text("test 2\n")
        assert users(RedisSettings(url=own_valkey.url), "test")
        assert pod_rollback.main(words) == 1
        assert "connections of test are still open" in capsys.readouterr().err
    assert pod_rollback.main(words) == 0
    assert "version 1" in capsys.readouterr().out
    assert shape(own_valkey.url) == WHOLE[0]
    assert pod_rollback.main(words) == 0  # the ConfigMap is still there


def test_a_redis_that_is_down_keeps_nobody_from_going_back(own_valkey, words, capsys):
    own_valkey.kill()
    assert pod_rollback.main(words) == 0
    assert "does not answer" in capsys.readouterr().out


def test_this_program_knows_the_versions_of_its_own_gateway():
    assert pod_rollback.KNOWN == {"gateway": 1}
