"""A profile that sets every field it can."""

from consilium.gateway.config import Profile

FULL = Profile(
    thinking=True,
    thinking_budget=64,
    temperature=0.5,
    top_p=0.9,
    top_k=10,
    min_p=0.05,
    presence_penalty=1.0,
    max_tokens=99,
)
