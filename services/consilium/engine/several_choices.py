"""Several answers to one request, where the model's own default is the likeliest token.

The likeliest answer exists once, so vLLM refuses `n` above 1 without sampling. Where the caller names no temperature, that is the model's default and not the
caller's wish: then several answers are drawn at OpenAI's own default. A caller that asks for temperature 0 and several answers is refused as before. Pure.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.ports import Json, Route

ROUTES: Final[frozenset[Route]] = frozenset({"chat", "completions"})
TEMPERATURE: Final = 1.0
"""What OpenAI's interface promises where nobody names one."""
NOTE: Final = f"several answers were asked for and the model's default takes the likeliest token: drawn at temperature {TEMPERATURE:g}"


def sampled(body: Json, route: Route, *, greedy: bool) -> Json | None:
    """Return the body with a temperature, or None where it may go on as it is.

    greedy  whether the model's own default is the likeliest token
    """
    n = body.get("n")
    several = isinstance(n, int) and n > 1
    if not greedy or route not in ROUTES or not several:
        return None
    if body.get("temperature") is not None or body.get("use_beam_search"):
        return None
    return {**body, "temperature": TEMPERATURE}
