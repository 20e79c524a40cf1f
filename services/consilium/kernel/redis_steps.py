"""Versions of a room's records in Redis: how they get from one to the next, the copy that is made before, and the way back to it.

    <prefix>:<room>:schema                     the version
    <prefix>:before:<room>:<N>                 hash: when the step to N began (`at`, seconds of Unix), and the kinds that were copied (`kinds`)
    <prefix>:before:<room>:<N>:<kind>:<name>   a record as it was before; copies of the last two steps stay

Texts in Lua, each of which the server runs in one piece. Does not know the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEPT_COPIES: Final = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One version of a room's records, and how they get there from the one before.

    version  1, 2, 3 and so on without gaps
    change   Lua; `prefix` is the beginning of every key. It runs in the server in one piece with the writing of the version, so that a kill at any moment
             leaves the version before, whole, or this one, whole. An error of its own is not undone: it looks before it writes. Empty = nothing to change
    kinds    kinds of keys that the change writes or removes (<prefix>:<kind>:...). They are copied before it

    Raises ValueError for a change that names no kinds: there would be no way back.
    """

    version: int
    change: str = ""
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold the change against its kinds."""
        if self.change and not self.kinds:
            raise ValueError(f"step {self.version}: a change names the kinds of keys it touches")


_EACH: Final = """
local function each(pattern, what)
  local cursor = '0'
  repeat
    local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = found[1]
    for _, name in ipairs(found[2]) do what(name) end
  until cursor == '0'
end
"""

_CHANGE: Final = (
    _EACH
    + """
local at, version = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if at ~= version - 1 then return {at, 0} end
local prefix, room, keep = ARGV[2], ARGV[3], tonumber(ARGV[4])
local aside = prefix .. ':before:' .. room .. ':'
if at > 0 and #ARGV > 4 then
  for i = 5, #ARGV do
    each(prefix .. ':' .. ARGV[i] .. ':*', function(name)
      redis.call('COPY', name, aside .. version .. ':' .. string.sub(name, #prefix + 2), 'REPLACE')
    end)
  end
  redis.call('HSET', aside .. version, 'at', redis.call('TIME')[1], 'kinds', table.concat(ARGV, ' ', 5))
end
local function change()
--CHANGE--
end
change()
for old = version - keep, 1, -1 do
  if redis.call('DEL', aside .. old) == 1 then
    each(aside .. old .. ':*', function(name) redis.call('DEL', name) end)
  end
end
redis.call('SET', KEYS[1], version)
return {version, 1}
"""
)

RESTORE: Final = (
    _EACH
    + """
local at, version = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
local prefix, room = ARGV[2], ARGV[3]
local aside = prefix .. ':before:' .. room .. ':'
for number = version, at do
  if redis.call('EXISTS', aside .. number) == 0 then return {at, number} end
end
for number = at, version, -1 do
  for kind in string.gmatch(redis.call('HGET', aside .. number, 'kinds'), '%S+') do
    each(prefix .. ':' .. kind .. ':*', function(name) redis.call('DEL', name) end)
    each(aside .. number .. ':' .. kind .. ':*', function(name)
      redis.call('RENAME', name, prefix .. ':' .. string.sub(name, #aside + #tostring(number) + 2))
    end)
  end
  redis.call('DEL', aside .. number)
  at = number - 1
end
redis.call('SET', KEYS[1], at)
return {at, 0}
"""
)
"""Go back to before the step ARGV[1]. KEYS[1] is the version's key, ARGV[2] the prefix, ARGV[3] the room. Answers (version, step whose copy lacks or 0)."""


def change_text(step: Step) -> str:
    """Return the script of a step: KEYS[1] is the version's key, and ARGV what `change_words` says. It answers (version, 1 if it was done here)."""
    return _CHANGE.replace("--CHANGE--", step.change)


def change_words(step: Step, prefix: str, room: str) -> list[str | int]:
    """Return what the script of a step is told."""
    return [step.version, prefix, room, KEPT_COPIES, *step.kinds]
