"""Trains the demo model's voices: rank 8, attention only, on the texts of voices/texts. Minutes on two cores.

    python -m consilium.demo.backends.train_voices [--only NAME] [--into FOLDER]

What is written has PEFT's layout and names; PEFT is not needed. Knows torch and this one model's modules. Does not know engines.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import Progress, TextColumn
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, utils

from consilium.demo import smollm, voice_files
from consilium.demo.voice_files import RECIPE, VOICES, Pair, Recipe
from consilium.demo.weights import to_bf16, write_bf16

_UNLEARNT: Final = -100


class LoraLinear(nn.Module):  # type: ignore[misc]  # torch is Any here
    """A frozen linear layer plus scale * B(A(x)), computed in the layer's bfloat16 while both factors are learnt in float32.

    A begins random and B zero, so the first step answers as the base does.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, seed: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        bound = base.in_features**-0.5
        start = torch.rand(rank, base.in_features, generator=seed) * 2 * bound - bound
        self.lora_a = nn.Parameter(start)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what base and adapter say together."""
        a, b = self.lora_a.to(x.dtype), self.lora_b.to(x.dtype)
        return self.base(x) + self.scale * functional.linear(functional.linear(x, a), b)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One text as tokens; `learnt` is the token itself where it is of the answer, else -100."""

    tokens: tuple[int, ...]
    learnt: tuple[int, ...]


def lessons(tokenizer: Any, pairs: Sequence[Pair]) -> list[Lesson]:
    """Return question-answer pairs in the model's chat format. Only the answer and its end are learnt."""
    found = []
    for pair in pairs:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.question}], add_generation_prompt=True, tokenize=False
        )
        start = tokenizer(asked, add_special_tokens=False)["input_ids"]
        rest = tokenizer(pair.answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        found.append(Lesson((*start, *rest), (*([_UNLEARNT] * len(start)), *rest)))
    return found


def batches(found: Sequence[Lesson], recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield tokens and what is learnt of them, both (batch, longest), for all epochs; the order is the seed's."""
    order = random.Random(recipe.seed)  # noqa: S311  an order, not a secret
    for _ in range(recipe.epochs):
        mixed = list(found)
        order.shuffle(mixed)
        for at in range(0, len(mixed), recipe.batch):
            some = mixed[at : at + recipe.batch]
            longest = max(len(lesson.tokens) for lesson in some)
            tokens = torch.zeros(len(some), longest, dtype=torch.long)
            learnt = torch.full((len(some), longest), _UNLEARNT)
            for row, lesson in enumerate(some):
                tokens[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
                learnt[row, : len(lesson.learnt)] = torch.tensor(lesson.learnt)
            yield tokens, learnt


def with_lora(model: Any, recipe: Recipe) -> dict[str, LoraLinear]:
    """Freeze the model, put a pair of factors beside each target module, and return them by module name."""
    model.requires_grad_(requires_grad=False)
    seed = torch.Generator().manual_seed(recipe.seed)
    added = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in recipe.targets:
            layer = LoraLinear(module, recipe.rank, recipe.alpha, seed)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
            added[name] = layer
    return added


def loss_of(model: Any, tokens: torch.Tensor, learnt: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the answers' tokens. Padding stands behind them, where a causal model does not look; the vocabulary is computed for answers only."""
    hidden = model.model(tokens).last_hidden_state[:, :-1]
    wanted = learnt[:, 1:]
    kept = wanted != _UNLEARNT
    return functional.cross_entropy(model.lm_head(hidden[kept]).float(), wanted[kept])


def train(
    model_folder: Path, pairs: Sequence[Pair], recipe: Recipe, bar: Progress, name: str
) -> dict[str, LoraLinear]:
    """Return the trained factors by module name."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    found = lessons(AutoTokenizer.from_pretrained(model_folder), pairs)
    added = with_lora(model, recipe)
    steps = recipe.epochs * -(-len(found) // recipe.batch)
    task = bar.add_task(name, total=steps, loss="")
    weights = [weight for layer in added.values() for weight in (layer.lora_a, layer.lora_b)]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * (1 - step / steps)
    )
    for tokens, learnt in batches(found, recipe):
        loss = loss_of(model, tokens, learnt)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.update(task, advance=1, loss=f"loss {float(loss.detach()):.2f}")
    return added


def write(folder: Path, added: dict[str, LoraLinear], recipe: Recipe) -> None:
    """Write the two files of an adapter as PEFT does: bfloat16, A (rank, in), B (out, rank)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in added.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_a
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_b
    values = {name: to_bf16(tensor.detach().numpy()) for name, tensor in tensors.items()}
    shapes = {name: value.shape for name, value in values.items()}
    write_bf16(folder / voice_files.TENSORS, shapes, values.items())
    (folder / voice_files.CONFIG).write_text(voice_files.config_text(recipe), encoding="utf-8")


def main() -> None:
    """Train the voices and write them with their hashes."""
    parser = argparse.ArgumentParser(description="Train the voices of the demo model.")
    parser.add_argument(
        "--only", choices=VOICES, help="train this one; the others stay as they are"
    )
    parser.add_argument("--into", type=Path, default=voice_files.HOME, help="folder of the voices")
    parser.add_argument(
        "--model", type=Path, help="folder of the demo model; made where none is named"
    )
    args = parser.parse_args()
    utils.logging.disable_progress_bar()
    utils.logging.set_verbosity_error()
    with (
        tempfile.TemporaryDirectory(prefix="voices-") as aside,
        Progress(*Progress.get_default_columns(), TextColumn("{task.fields[loss]}")) as bar,
    ):
        model = args.model or smollm.make(Path(aside) / "demo")
        for name in [args.only] if args.only else VOICES:
            pairs = voice_files.texts(name)
            write(args.into / name, train(model, pairs, RECIPE, bar, name), RECIPE)
    voice_files.record(
        args.into, made_with=f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
