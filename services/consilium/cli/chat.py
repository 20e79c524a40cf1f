"""`consilium chat "..."`: ask the model, see the answer as it comes. Without a text, a conversation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.cli.answers import failure_of
from consilium.cli.app import EXIT_USAGE, complain
from consilium.cli.endpoint import Endpoint, add_endpoint, endpoint_of
from consilium.kernel import openai_errors, sse
from consilium.kernel.errors import ConsiliumError

TIMEOUT_S: Final = 600.0
CONNECT_S: Final = 5.0
RECEIPT: Final = "x-consilium-receipt"

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of an answer: text, thinking, or the error that ended it."""

    text: str = ""
    thinking: str = ""
    error: str = ""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "chat",
        help="Ask the model.",
        description="Ask the model. Without a text: a conversation, ended by an empty line or Ctrl-D.",
    )
    parser.add_argument("text", nargs="?", help="the question; '-' reads it from standard input")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--role", metavar="R", help="role that answers")
    chosen.add_argument(
        "--model",
        metavar="M",
        help="auto, base, role/x, adapter/x, executor/x, or a model id (default: auto)",
    )
    parser.add_argument(
        "--profile", metavar="P", help="profile: code, think, dialog, or one of your own"
    )
    parser.add_argument("--system", metavar="S", help="system prompt")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer in tokens")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument(
        "--no-stream", action="store_true", help="print the answer when it is whole"
    )
    parser.add_argument("--why", action="store_true", help="print the receipt afterwards")
    add_endpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Ask once, or hold a conversation. An empty question is a usage error (2)."""
    text = sys.stdin.read() if args.text == "-" else args.text or ""
    if args.text is not None and not text.strip():
        complain(
            "the question is empty",
            "Write it in quotes: consilium chat 'What is a mind?'. Without a text a conversation begins.",
        )
        return EXIT_USAGE
    endpoint = endpoint_of(args)
    messages: list[Json] = [{"role": "system", "content": args.system}] if args.system else []
    if args.text is not None:
        return _turn(endpoint, args, messages, text)
    code = 0
    for line in _lines():
        code = _turn(endpoint, args, messages, line)
    return code


def body_of(args: argparse.Namespace, messages: Iterable[Mapping[str, object]]) -> Json:
    """Return the OpenAI request for the flags."""
    body: Json = {
        "model": f"role/{args.role}" if args.role else args.model or "auto",
        "messages": list(messages),
        "stream": not args.no_stream,
    }
    if args.profile:
        body["consilium"] = {"profile": args.profile}
    if args.max_tokens is not None:
        body["max_tokens"] = args.max_tokens
    if args.temperature is not None:
        body["temperature"] = args.temperature
    return body


def pieces(chunks: Iterable[bytes]) -> Iterator[Piece]:
    """Read the bytes of a streamed chat. Ends at [DONE]."""
    splitter = sse.Splitter()
    for raw in (raw for chunk in chunks for raw in splitter.feed(chunk)):
        data = sse.data_of(raw).strip()
        if data == sse.DONE:
            return
        if not data:
            continue
        event = json.loads(data)
        if "error" in event:
            yield Piece(error=openai_errors.said(event).message or str(event["error"]))
            return
        for choice in event.get("choices", ())[:1]:
            delta = choice.get("delta", {})
            thinking = delta.get("reasoning") or delta.get("reasoning_content") or ""
            if delta.get("content") or thinking:
                yield Piece(str(delta.get("content") or ""), str(thinking))


def _turn(endpoint: Endpoint, args: argparse.Namespace, messages: list[Json], text: str) -> int:
    messages.append({"role": "user", "content": text})
    answer, receipt = _ask(endpoint, body_of(args, messages))
    messages.append({"role": "assistant", "content": answer})
    if args.why and receipt:
        from consilium.cli.why import show

        return show(endpoint, receipt)
    return 0


def _ask(endpoint: Endpoint, body: Json) -> tuple[str, str]:
    """Return the whole answer and the id of its receipt; what comes is printed as it comes."""
    import httpx

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        with httpx.stream(
            "POST",
            f"{endpoint.openai}/chat/completions",
            json=body,
            headers=headers,
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S),
        ) as answer:
            receipt = answer.headers.get(RECEIPT, "")
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise failure_of(answer.status_code, answer.content)
            if not body["stream"]:
                answer.read()
                message = answer.json()["choices"][0]["message"]
                said = [
                    Piece(
                        str(message.get("content") or ""),
                        str(message.get("reasoning") or message.get("reasoning_content") or ""),
                    )
                ]
                return _show(said), receipt
            return _show(pieces(answer.iter_bytes())), receipt
    except httpx.TimeoutException as err:
        raise ConsiliumError("deadline", str(err), name="The cluster", seconds=TIMEOUT_S) from err
    except httpx.HTTPError as err:
        raise ConsiliumError(
            "upstream_down", str(err), name=endpoint.openai, retry_after=1
        ) from err


def _show(said: Iterable[Piece]) -> str:
    whole: list[str] = []
    dim = sys.stdout.isatty()
    thinking = False
    for piece in said:
        if piece.error:
            print(flush=True)
            complain(piece.error)
            raise openai_errors.ToldError("upstream_down", piece.error)
        if piece.thinking:
            thinking = True
            print(f"\033[2m{piece.thinking}\033[0m" if dim else piece.thinking, end="", flush=True)
        if piece.text:
            if thinking:
                print("\n", flush=True)
                thinking = False
            print(piece.text, end="", flush=True)
            whole.append(piece.text)
    print(flush=True)
    return "".join(whole)


def _lines() -> Iterator[str]:
    """Read questions until an empty line or the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line
