"""What can be set of adapters: which there are, where each one lives, and who is asked when.

Knows shapes of the configuration. Does not know what is stored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consilium.demo import voice_files
from consilium.kernel.config import LIVE, Section
from consilium.kernel.config_refusal import WrongValueError, no_such
from consilium.kernel.service_config import ServicesView

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Placement = Literal["vram", "ram", "ssd"]


class Adapter(Section):
    """One LoRA adapter of the configuration. The CLI cannot remove it; its files are taken into the store at start."""

    path: str = Field(
        description="Folder with adapter_model.safetensors and adapter_config.json, a hub name, or a voice of the demo model such as demo:captain."
    )
    placement: Placement = Field(
        "ram",
        description="vram = pinned in a slot before an engine says ready; ram = in its memory; ssd = fetched on first use.",
    )
    with_core: Name | None = Field(
        None, description="Adapter that is added whenever this one answers: an exact sum."
    )
    weight: float = Field(1.0, ge=-10, le=10, description="Factor of its delta.")
    core_weight: float = Field(1.0, ge=-10, le=10, description="Factor of with_core's delta.")
    isolated: bool = Field(False, description="It is never added to another one.")
    executors: tuple[Name, ...] = Field(
        (), description="Executors that may hold it; empty = all whose model it fits."
    )
    domain: str = Field(
        "",
        max_length=4000,
        description="What it is for, in words: who asks `auto` finds it by this.",
    )
    examples: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        (), max_length=64, description="Questions that it should answer."
    )
    triggers: tuple[Annotated[str, Field(min_length=2, max_length=100)], ...] = Field(
        (), max_length=16, description="Texts in a question that call it."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least likeness for it to answer by meaning, 0 to 1; empty = lora_router.threshold.",
    )


class LoraRouter(Section):
    """The section `lora_router`."""

    store_gib: float = Field(50.0, gt=0, description="Most that stored adapters may take.")
    adhoc_sums_gib: float | None = Field(
        None,
        gt=0,
        description="Most of it that sums may take which only requests name, such as adapter/a@1+b@0.7; empty = a tenth. Sums with a core and those of roles do not count, and make no room for them.",
    )
    adhoc_sums: int = Field(
        256,
        ge=1,
        description="Most of those sums; the ones that nobody uses go, the one that was used longest ago first.",
    )
    new_sums_per_minute: int = Field(
        20,
        ge=1,
        description="How many of those sums one key may have made in a minute, at each gateway replica. Sums that are stored cost nothing.",
    )
    max_adapter_gib: float = Field(8.0, gt=0, description="Largest adapter that is taken.")
    threshold: float = Field(
        0.22,
        ge=0,
        le=1,
        description=(
            "Least likeness for an adapter to answer by meaning: 0 = no more alike than any two questions, 1 = the same. "
            "Questions of an adapter's own have 0.21 to 0.44, others 0.06 to 0.28; an adapter without examples needs 0.07 less, "
            "and a text that is like everyday questions needs more."
        ),
    )
    margin: float = Field(
        0.0,
        ge=0,
        le=1,
        description="By how much the first must be ahead of the second, else none of them answers.",
    )
    sticky_margin: float = Field(
        0.02,
        ge=0,
        le=1,
        description="By how much another one must be ahead to take over a conversation; at least 0.25 where the text reads as a follow-up.",
    )
    canary: bool = Field(
        True, description="Try each new adapter on an idle engine before it answers anybody."
    )
    keep_versions: int = Field(
        3,
        ge=1,
        le=100,
        description="Versions of one name that are kept; older ones that nobody uses go.",
    )


class AdaptersView(Section):
    """The part of the tree that is this room's."""

    model_config = Section.model_config | {"extra": "ignore"}

    adapters: dict[Name, Adapter] = Field(default_factory=dict, json_schema_extra=LIVE)
    lora_router: LoraRouter = Field(default_factory=LoraRouter)

    @model_validator(mode="after")
    def _voices_are_known(self) -> AdaptersView:
        for name, adapter in self.adapters.items():
            if (
                adapter.path.startswith(voice_files.PREFIX)
                and adapter.path not in voice_files.PATHS
            ):
                reason, nearest = no_such(adapter.path, "voice", set(voice_files.PATHS))
                raise WrongValueError(("adapters", name, "path"), reason, nearest)
        return self

    @model_validator(mode="after")
    def _cores_are_known(self) -> AdaptersView:
        for name, adapter in self.adapters.items():
            core = adapter.with_core
            if name == "mix":
                raise WrongValueError(
                    ("adapters", name), "the name mix belongs to sums; choose another"
                )
            if core is None:
                continue
            if core == name:
                raise WrongValueError(
                    ("adapters", name, "with_core"),
                    "an adapter is never added to itself; name another one, or leave with_core out",
                )
            if core not in self.adapters:
                reason, nearest = no_such(core, "adapter", set(self.adapters) - {name})
                raise WrongValueError(("adapters", name, "with_core"), reason, nearest)
            if self.adapters[core].isolated or adapter.isolated:
                alone = core if self.adapters[core].isolated else name
                raise WrongValueError(
                    ("adapters", name, "with_core"),
                    f"{alone!r} is isolated, so it is never added to another one",
                )
        return self


class RoleAdapters(Section):
    """What this room reads of a role."""

    model_config = Section.model_config | {"extra": "ignore"}

    adapters: tuple[str, ...] = ()


class View(AdaptersView, ServicesView):
    """What the process reads of the tree."""

    model_config = Section.model_config | {"extra": "ignore"}

    roles: dict[str, RoleAdapters] = Field(default_factory=dict, json_schema_extra=LIVE)

    @property
    def adapters_of_roles(self) -> dict[str, tuple[str, ...]]:
        """Return role -> its adapters, for each role that has any."""
        return {name: role.adapters for name, role in self.roles.items() if role.adapters}
