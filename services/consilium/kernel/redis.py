"""Redis 7 or Valkey for every room: pools, Lua, blocking reads, the version of a room's records, and one error for all that can go wrong.

    server = RedisServer(settings, room="jobs", steps=(Step(1), Step(2, "...Lua...")))
    await server.ask(lambda redis: redis.get(name))                                    a command; answers within settings.timeout_s
    await server.wait(lambda redis: redis.xread({name: "$"}, block=5000), block_s=5)   a blocking read, on connections of its own
    await server.call(FUNCTIONS, "claim", keys, *args)                                 a Lua function; `run` for a script

Nothing is asked when a server is made, so that Redis may come later. The first command, and the first one after an outage, looks at the version of the room's
records and brings them up to date. Knows the library. Does not know what the rooms keep.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis import Redis as OneServer
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostConnectionError
from redis.retry import Retry as OneRetry

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.redis_steps import Step, change_text, change_words

COMMANDS: Final = 64
"""Connections for commands; more at once wait for one, at most as long as for an answer."""

WAITS: Final = 256
"""Connections for blocking reads. A caller that waits holds one for as long as it waits."""

RETRY_AFTER_S: Final = 1.0
LOOK_S: Final = 2.0
"""Seconds between two looks of `watch`."""

LATE_S: Final = 5.0
"""Seconds after the end of its waiting time in which a blocking read must have answered."""

_WHY: Final = {
    OutOfMemoryError: " (its memory is full)",
    NoPermissionError: " (its user may not do that)",
    AuthenticationError: " (it refuses our user or password)",
}
"""What is added to its name where it answers and refuses."""

MIGRATION_S: Final = 600.0
WANTED_MAJOR: Final = 7

T = TypeVar("T")
Command = Callable[[Redis], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Functions:
    """A library of Lua functions under a name that holds its hash: old and new programs use one server side by side.

    text   functions registered as csl_<name>_HASH
    """

    text: str

    @property
    def digest(self) -> str:
        """Return 12 hex digits of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def code(self) -> str:
        """Return what the server loads."""
        return f"#!lua name=csl_{self.digest}\n{self.text.replace('HASH', self.digest)}"


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script, called by its hash."""

    text: str

    @property
    def digest(self) -> str:
        """Return the name that the server gives it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself; empty where it may not be asked.

    evicts   the policy by which it drops keys when it is full; noeviction is what a store needs
    """

    version: str = ""
    evicts: str = ""
    has_log: bool | None = None


def ping(address: str, timeout_s: float) -> None:
    """Ask a server once, outside of any loop. Takes every address that the settings take, TLS and its certificates among it.

    Raises RedisError, OSError or ValueError (an address that is none).
    """
    with OneServer.from_url(
        address,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=OneRetry(NoBackoff(), 0),
    ) as server:
        server.ping()


class RedisServer:
    """One server, as one room sees it. Every method raises ConsiliumError(upstream_down) with `retry_after_s` when the server does not answer.

    redis, waiting   the clients of the two pools
    prefix           beginning of every key
    """

    def __init__(
        self,
        settings: RedisSettings,
        *,
        room: str,
        steps: Sequence[Step] = (),
        on_state: Callable[[bool], object] | None = None,
        commands: int = COMMANDS,
        waits: int = WAITS,
    ) -> None:
        """Take the wiring. Asks nobody. Raises ConsiliumError(redis_missing) without an address, or for one that is none.

        steps     versions of the room's records, the oldest first
        on_state  is told when the server answers again, and when it no longer does; by default the log is
        """
        address = settings.address()
        if address is None:
            raise ConsiliumError(
                "redis_missing",
                reason="redis.url is not set, and the address of the cluster's own server is not known here",
            )
        self.room, self.prefix = room, settings.prefix
        self._steps = tuple(steps)
        states = logs.StateLog(logs.get(room))
        self._on_state = on_state or (lambda up: states.tell("Redis", up=up))
        self._up: bool | None = None
        self._prepared = False
        self._preparing: asyncio.Task[None] | None = None
        self.redis = _client(address, settings, f"{settings.prefix}-{room}", commands)
        self.waiting = _client(
            address, settings, f"{settings.prefix}-{room}-waits", waits, answers_late=True
        )

    def key(self, kind: str, name: str) -> str:
        """Return the full name of a key."""
        return f"{self.prefix}:{kind}:{name}"

    @property
    def is_up(self) -> bool | None:
        """Say whether the server answered when it was asked last; None before it was asked."""
        return self._up

    async def ask(self, command: Command[T], *, repeat: bool = True) -> T:
        """Return the answer of a command.

        repeat  whether it may be sent once more when the connection is lost, as happens when the server is restarted. The first may have been done: say False where
                doing it twice is wrong. A command that timed out is never repeated
        """
        await self.prepare()
        return await self._guarded(lambda: self._once_more(command, repeat=repeat))

    async def wait(self, command: Command[T], block_s: float) -> T:
        """Return the answer of a command that may take `block_s` seconds, such as XREAD with BLOCK or BLMOVE. It is not repeated.

        Who is cancelled meanwhile gives up the connection, so that a late answer reaches nobody else.
        """
        await self.prepare()

        async def once() -> T:
            try:
                async with asyncio.timeout(block_s + LATE_S):
                    return await command(self.waiting)
            except TimeoutError:
                raise LostConnectionError(
                    f"no answer {LATE_S:g} s after the end of a wait"
                ) from None

        return await self._guarded(once)

    async def call(
        self,
        functions: Functions,
        name: str,
        keys: Sequence[str],
        *args: str | float,
        repeat: bool = True,
    ) -> Any:
        """Return the answer of a Lua function; the library is loaded when the server does not have it."""
        full = f"csl_{name}_{functions.digest}"
        words = [*keys, *(str(arg) for arg in args)]

        async def once(redis: Redis) -> Any:
            try:
                return await redis.fcall(full, len(keys), *words)
            except ResponseError as err:
                if "function not found" not in str(err).lower():
                    raise
            await redis.function_load(functions.code(), replace=True)
            return await redis.fcall(full, len(keys), *words)

        return await self.ask(once, repeat=repeat)

    async def run(
        self, script: Script, keys: Sequence[str], *args: str | float, repeat: bool = True
    ) -> Any:
        """Return the answer of a Lua script; it is sent whole when the server does not have it."""
        words = [*keys, *(str(arg) for arg in args)]

        async def once(redis: Redis) -> Any:
            try:
                return await redis.evalsha(script.digest, len(keys), *words)
            except NoScriptError:
                return await redis.eval(script.text, len(keys), *words)

        return await self.ask(once, repeat=repeat)

    async def prepare(self) -> None:
        """Bring the room's records up to date, once for each time that the server was lost. Called by every command; call it at start to hear refusals early.

        Raises ConsiliumError: state_newer (a newer program wrote them), redis_missing (the server is too old), upstream_down.
        """
        if self._prepared:
            return
        if self._preparing is None:
            self._preparing = asyncio.ensure_future(self._prepare())
            self._preparing.add_done_callback(self._was_prepared)
        await asyncio.shield(self._preparing)

    async def facts(self) -> Facts:
        """Return what the server says of itself."""
        return await self._guarded(lambda: _facts(self.redis))

    async def watch(self) -> None:
        """Look at the server for as long as this task lives, so that its state is known also while nobody asks for anything."""
        while True:
            try:
                await self.ask(lambda redis: redis.ping())
            except ConsiliumError as err:
                if err.code != "upstream_down":
                    logs.get(self.room).warning("redis_refused", reason=err.public())
            await asyncio.sleep(LOOK_S)

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait({self._preparing})
        await self.redis.aclose()
        await self.waiting.aclose()

    async def _once_more(self, command: Command[T], *, repeat: bool) -> T:
        try:
            return await command(self.redis)
        except LostConnectionError as err:
            if not repeat or _is_crowded(err):
                raise
        return await command(self.redis)

    async def _guarded(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            found = await ask()
        except (
            ResponseError
        ) as err:  # it answers, and refuses: out of memory, no permission, a fault in Lua
            self._tell(up=True)
            raise _down(err) from err
        except (RedisError, OSError) as err:
            if not _is_crowded(err):
                self._prepared = False
                self._tell(up=False)
            raise _down(err) from err
        self._tell(up=True)
        return found

    def _tell(self, *, up: bool) -> None:
        if up is not self._up:
            self._up = up
            self._on_state(up)

    async def _prepare(self) -> None:
        facts = await self._guarded(lambda: self._once_more(_facts, repeat=True))
        _check(facts, self.room)
        if self._steps:
            await self._guarded(self._migrate)
        self._prepared = True

    def _was_prepared(self, task: asyncio.Task[None]) -> None:
        self._preparing = None
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def _migrate(self) -> None:
        """Do the steps that the records lack, on a connection without a short time limit: one may take minutes."""
        name, newest = self.key(self.room, "schema"), self._steps[-1].version
        at = int(await self.waiting.get(name) or 0)
        for step in self._steps:
            if step.version <= at:
                continue
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(MIGRATION_S):
                words = change_words(step, self.prefix, self.room)
                at, is_done = await self.waiting.eval(change_text(step), 1, name, *words)
            took = asyncio.get_running_loop().time() - began
            if is_done:  # else another process was quicker
                logs.get(self.room).info("records_migrated", version=at, took_ms=round(took * 1000))
        if at > newest:
            raise ConsiliumError(
                "state_newer",
                name=f"The records of {self.room} in Redis ({name})",
                found=at,
                known=newest,
                way_out="Start that newer version again, or give this one another redis.prefix or database",
            )


def _client(
    address: str, settings: RedisSettings, name: str, most: int, *, answers_late: bool = False
) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            address,
            max_connections=most,
            timeout=settings.timeout_s,
            socket_timeout=None if answers_late else settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            socket_keepalive=True,
            client_name=name,
            retry=Retry(NoBackoff(), 0),  # `ask` knows what may be repeated
            decode_responses=True,
            protocol=2,
            driver_info=None,  # else each new connection reads redis-py's package metadata, 5 ms in which nothing else runs, and tells the server in two more calls
        )
    except ValueError as err:
        raise ConsiliumError("redis_missing", str(err), reason=f"redis.url: {err}") from err
    return Redis.from_pool(pool)


def _is_crowded(err: Exception) -> bool:
    """Say whether no connection was free in time. redis-py tells it as a lost connection; the server may be well."""
    return isinstance(err, LostConnectionError) and isinstance(err.__cause__, TimeoutError)


def _down(err: Exception) -> ConsiliumError:
    why = next((words for kind, words in _WHY.items() if isinstance(err, kind)), "")
    return ConsiliumError(
        "upstream_down",
        f"{type(err).__name__}: {err}",
        name=f"Redis{why}",
        retry_after_s=RETRY_AFTER_S,
    )


async def _facts(redis: Redis) -> Facts:
    try:
        told = await redis.info()
    except NoPermissionError:
        return Facts()
    return Facts(
        str(told.get("valkey_version") or told.get("redis_version", "")),
        str(told.get("maxmemory_policy", "")),
        bool(told["aof_enabled"]) if "aof_enabled" in told else None,
    )


def _check(facts: Facts, room: str) -> None:
    """Say what makes a server unfit. Raises ConsiliumError(redis_missing) if it is too old."""
    major = facts.version.partition(".")[0]
    if major.isdigit() and int(major) < WANTED_MAJOR:
        raise ConsiliumError(
            "redis_missing",
            reason=f"the server at redis.url has version {facts.version}, and {WANTED_MAJOR} or later is needed",
        )
    if facts.evicts not in ("", "noeviction"):
        logs.get(room).warning(
            "redis_may_drop_keys", policy=facts.evicts, wanted="maxmemory-policy noeviction"
        )
    if facts.has_log is False:
        logs.get(room).warning("redis_may_forget", wanted="appendonly yes")
