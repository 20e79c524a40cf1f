"""May a release go back to this program? `python -m consilium.supervisor.pod_rollback --config FILE --release NAME --name OBJECTS --namespace SPACE`.

The chart's Job before `helm rollback` runs it with the image that is rolled back to, so this program knows the versions of records that its own cluster will know.
Records of a newer one refuse it, with the commands that go back to the copy made before. Where Redis does not answer nothing is refused: the way back is the
rescue then, and the programs themselves refuse records that they do not know. Knows the records in Redis; a room's own file is looked at by the room.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field
from redis.exceptions import RedisError

from consilium.gateway import records
from consilium.kernel.config import Section, load_view
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.redis_records import Stored, look, restore, users

KNOWN: Final = {records.ROOM: records.STEPS[-1].version}
"""Rooms with records in Redis -> the version that this program knows."""

LEAVES_S: Final = 150.0
LOOK_S: Final = 2.0


class View(Section):
    """What this program reads."""

    model_config = Section.model_config | {"extra": "ignore"}

    redis: RedisSettings = Field(default_factory=RedisSettings)


def main(argv: list[str] | None = None) -> int:
    """Look at each room, and return 0 if the release may go back, else 1."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.pod_rollback")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--release", required=True, help="name of the release")
    parser.add_argument("--name", required=True, help="name of its RayService")
    parser.add_argument("--namespace", required=True)
    parser.add_argument(
        "--asked",
        type=Path,
        help="file with lines `room version`: copies from before these versions that are to be put back",
    )
    chosen = parser.parse_args(argv)
    try:
        settings = load_view(View, chosen.config).redis
        asked = _asked(chosen.asked)
        refusals = [
            said for room, known in KNOWN.items()
            if (said := _room(settings, room, known, asked.get(room), time.sleep))
        ]  # fmt: skip
    except (RedisError, OSError) as error:
        print(f"Redis does not answer ({error}), so the records were not looked at.")
        return 0
    except ConsiliumError as error:
        print(error.public(), file=sys.stderr)
        return 1
    for said in refusals:
        words = {"release": chosen.release, "name": chosen.name, "space": chosen.namespace}
        print(said.format(**words), file=sys.stderr)
    return 1 if refusals else 0


def _room(
    settings: RedisSettings,
    room: str,
    known: int,
    asked: int | None,
    sleep: Callable[[float], object],
) -> str:
    """Return why a room's records keep the release from going back, or nothing. Puts back the copy that was asked for."""
    stored = look(settings, room)
    if stored.version <= known:
        print(
            f"The records of {room} have version {stored.version}, and {known} is known: nothing to do."
        )
        return ""
    if asked is None:
        return refusal(room, known, stored)
    if asked != known + 1:
        return f"The copy that was asked for is from before version {asked}; this program needs the one from before {known + 1}."
    ends = time.monotonic() + LEAVES_S
    while (count := users(settings, room)) and time.monotonic() < ends:
        sleep(LOOK_S)
    if count:
        return f"{count} connections of {room} are still open. Stop it first: kubectl -n {{space}} delete rayservice {{name}} --cascade=foreground"
    print(f"The records of {room} are those from before version {asked} again (version {restore(settings, room, asked)}).")  # fmt: skip
    return ""


def refusal(room: str, known: int, stored: Stored) -> str:
    """Return the sentence and the commands; {release}, {name} and {space} are still to be filled in."""
    first = (
        f"The records of {room} in Redis have version {stored.version}, and the revision you go back to knows {known}. Nothing was changed.\n"
        "To stay with the revision that runs (helm history {release} -n {space} tells which):\n"
        "  helm rollback {release} REVISION -n {space}\n"
    )
    copy = stored.back_to(known)
    if copy is None:
        return f"{first}There is no copy from before version {known + 1}, so there is no way back to what this revision knows."
    made = time.strftime("%Y-%m-%d %H:%M", time.gmtime(copy.at))
    return (
        f"{first}To go back with the copy of {made} UTC, made before version {copy.version}. What came later is lost ({', '.join(copy.kinds)}):\n"
        "  kubectl -n {space} delete rayservice {name} --cascade=foreground\n"
        f"  kubectl -n {{space}} create configmap {{name}}-restore --from-literal=records='{room} {copy.version}'\n"
        "  helm rollback {release} REVISION -n {space}\n"
        "  kubectl -n {space} delete configmap {name}-restore"
    )


def _asked(path: Path | None) -> dict[str, int]:
    if path is None or not path.exists():
        return {}
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(len(row) == 2 and row[1].isdigit() for row in rows):
        raise ConsiliumError("conflict", reason=f"{path}: write lines of `room version`")
    return {room: int(version) for room, version in rows}


if __name__ == "__main__":
    sys.exit(main())
