"""Facts about models that lie nowhere, for tests of the rules."""

from consilium.engine.model_facts import ModelFacts
from consilium.planner.shapes import Shape


def facts(name, model_type="qwen3", *, layers=2, heads=4, kv_heads=2, width=256, experts=0, **more):
    """Return a model with these counts; in a mixture `width` is that of one expert."""
    shape = Shape(
        name=name,
        family=model_type,
        layers=layers,
        hidden=heads * 64,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        vocab=1000,
        tied=True,
        max_positions=4096,
        mlp_width=0 if experts else width,
        experts=experts,
        expert_width=width if experts else 0,
    )
    return ModelFacts(name=name, path=f"/models/{name}", shape=shape, model_type=model_type, **more)
