"""`consilium plan`: what fits, how fast, what it costs, what may be changed; before anything is started.

Knows the command line. The answers come from the planner; the pages of this command are in fit.py and forecasts.py.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from consilium.kernel.errors import ConsiliumError

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_OK = 0
EXIT_DOES_NOT_FIT = 1
EXIT_USAGE = 2
NEXT = "Correct what the sentence names and ask again; --help lists what the command takes."


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subjects to the parser."""
    parser = subparsers.add_parser(
        "plan",
        help="Say what fits on which hardware, with the arithmetic.",
        description="Say what fits, how fast it is and what it costs, before anything is started. Without --gpu, --cpu and --ram this machine is taken.",
    )
    _fit_arguments(parser)
    tasks = parser.add_subparsers(dest="task", metavar="SUBJECT", title="other subjects")
    compare = tasks.add_parser(
        "check-config", help="What the edits between two config.json files do."
    )
    compare.add_argument("old")
    compare.add_argument("new")
    move = tasks.add_parser(
        "change-base", help="What survives a change of the base model: adapters, vectors, settings."
    )
    move.add_argument("old", help="Model now: a name, a folder or a config.json.")
    move.add_argument("new", help="Model to be.")
    measure = tasks.add_parser(
        "calibrate", help="Read an engine's boot log and compare it with the forecast."
    )
    measure.add_argument("log", help="Log file, or - for standard input.")
    measure.add_argument(
        "--save",
        metavar="FILE",
        help="Keep the measured overhead in this file, for plan --measured FILE.",
    )
    measure.add_argument("--model", help="The model, where the log does not name it.")
    measure.add_argument("--gpu", help="The card, where the log does not name it.")
    _training_arguments(
        tasks.add_parser(
            "training",
            help="Forecast a training: memory by part, hours, room for serving beside it.",
        )
    )
    books = tasks.add_parser(
        "library", help="Forecast a library: text, chunks, vectors, RAM, disk, hours."
    )
    books.add_argument("--pages", default="10k", help="Pages, such as 10k or 2M.")
    books.add_argument("--script", choices=("latin", "cyrillic", "mixed"), default="mixed")
    books.add_argument("--dimensions", type=int, default=1024, help="Numbers per vector.")
    books.add_argument(
        "--vectors",
        choices=("f32", "f16", "int8", "binary"),
        default="f16",
        help="Format of the vectors in the index.",
    )
    books.add_argument("--gpu", help="Card that embeds; empty = none, the processor does.")
    length = tasks.add_parser(
        "context", help="What 32k to 2M tokens of context cost, and what the model was trained for."
    )
    length.add_argument("--model", required=True)
    length.add_argument("--gpu", default="RTX PRO 6000 96GB")
    length.add_argument("--weights")
    length.add_argument("--tp", type=int, default=1)
    for task in (compare, move, measure, books, length):
        task.add_argument("--output", choices=("table", "json"), default="table")


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what")
    what.add_argument(
        "--model", help="Name such as Qwen3-30B-A3B, a hub name, a folder, or a config.json."
    )
    what.add_argument("-c", "--config", help="consilium.yaml: plan every engine in it.")
    what.add_argument(
        "--weights",
        help="bf16, fp8, int4, nvfp4, gguf:q4_k_m ...; empty = as the name or file says.",
    )
    what.add_argument("--adapters", type=int, default=0, help="LoRA slots.")
    what.add_argument("--rank", type=int, default=16, help="Largest rank of an adapter.")
    what.add_argument("--targets", default="all", help="all, attention, or module names.")
    what.add_argument(
        "--fully-sharded", action="store_true", help="Cut the LoRA factors over the cards too."
    )
    what.add_argument(
        "--shared-outer",
        action="store_true",
        help="Experts share the outer LoRA factors (the adapter must be trained so).",
    )
    what.add_argument("--max-cpu-loras", type=int, default=0, help="Adapters kept in RAM.")
    where = parser.add_argument_group("on what")
    where.add_argument(
        "--gpu",
        "--gpus",
        dest="gpus",
        help="Cards, such as 'RTX 4090' or '2x RTX 3090, 1x RTX 4090'.",
    )
    where.add_argument(
        "--cpu", help="Processor, such as 'EPYC 9554', or channels x speed: 12x4800."
    )
    where.add_argument("--ram", help="Host memory, such as 256GB.")
    where.add_argument("--tp", type=int, help="Tensor parallel; empty = the smallest that fits.")
    where.add_argument("--pp", type=int, default=1, help="Pipeline stages.")
    where.add_argument("--ep", action="store_true", help="Whole experts per card.")
    where.add_argument(
        "--engines-on-card", type=int, default=1, help="Engines that share each card."
    )
    where.add_argument(
        "--nodes",
        type=int,
        default=1,
        help="Machines that one engine spans; the links become the network.",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--context",
        help="Tokens of one request, prompt and answer; empty = 32k, or what the model allows if that is less.",
    )
    how.add_argument(
        "--requests", type=int, default=1, help="Requests of that length that must fit at once."
    )
    how.add_argument("--sequences", type=int, help="max_num_seqs; default 64 as in consilium.yaml.")
    how.add_argument("--batched-tokens", type=int, help="max_num_batched_tokens.")
    how.add_argument("--kv", default="auto", help="KV type: auto, bf16, fp8.")
    how.add_argument(
        "--utilisation", type=float, help="Share of the card that the engine may take."
    )
    how.add_argument("--kv-gib", type=float, help="Exact KV cache in GiB instead of a share.")
    how.add_argument("--eager", action="store_true", help="Without CUDA graphs.")
    how.add_argument(
        "--weights-to-ram", help="Weights per card that stay in host memory, such as 8GB."
    )
    how.add_argument("--kv-to-ram", help="KV that may be parked in host memory, such as 32GB.")
    how.add_argument("--vllm", default="0.32.0", help="vLLM version.")
    how.add_argument("--measured", metavar="FILE", help="Overheads kept by plan calibrate --save.")
    how.add_argument(
        "--prices",
        metavar="FILE",
        help="Your own prices; 'plan --prices show' prints the file to copy.",
    )
    how.add_argument(
        "--hours-per-day", type=float, default=8.0, help="Hours of use a day, for the money."
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")


def _training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True)
    parser.add_argument("--gpu", default="RTX PRO 6000 96GB")
    parser.add_argument("--method", choices=("lora", "qlora", "full"), default="lora")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="all")
    parser.add_argument("--length", default="4k", help="Tokens of one example.")
    parser.add_argument("--batch", type=int, default=1, help="Examples in one step on a card.")
    parser.add_argument("--tokens", default="10M", help="Tokens of the corpus, times epochs.")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--no-checkpointing", action="store_true", help="Keep all activations.")
    parser.add_argument(
        "--beside", help="Weights format of a serving engine that stays up on the same card."
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Answer the question; 0 fits, 1 does not fit, 2 the question is wrong."""
    if args.task is not None:
        from consilium.cli.plan import forecasts

        pages: dict[str, Callable[[argparse.Namespace], int]] = {
            "check-config": forecasts.check_config,
            "change-base": forecasts.change_base,
            "calibrate": forecasts.calibrate,
            "training": forecasts.training,
            "library": forecasts.library,
            "context": forecasts.context,
        }
        return guarded(lambda: pages[args.task](args))
    if args.config is not None and args.prices != "show":
        from consilium.cli.plan import file

        return guarded(lambda: file.answer(args))
    from consilium.cli.plan import fit

    return guarded(lambda: fit.answer(args))


def guarded(work: Callable[[], int]) -> int:
    """Run one page; a wrong question becomes one sentence and exit code 2."""
    try:
        return work()
    except ConsiliumError as err:
        if err.code != "invalid_request":
            raise
        print(f"error: {err.public()}\nnext: {NEXT}", file=sys.stderr)
        return EXIT_USAGE
