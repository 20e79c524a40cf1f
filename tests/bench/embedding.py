"""What an embedding model finds, and how long a question takes: hit@10 for each language of question and page, milliseconds, memory.

    python -m tests.bench.embedding PAGES                              # PAGES is made by tests.bench.man_pages
    python -m tests.bench.embedding FOLDER --questions FILE --models minilm-e5

PAGES has one folder per language with a text file per page. The questions are lines of tab-separated fields under a head line: pages (one or more names
of files without .txt, with | between them: any of them answers), then the question in each language. Dense search alone, one vector for the first 2,800
characters of a page (as much of them as the model takes). One thread; each model in a process of its own. The peers are the offline models themselves, all in
one go.
"""

import argparse
import asyncio
import multiprocessing
import time
from pathlib import Path

import numpy as np
import psutil

from consilium.embedding.backends.catalogue import MODELS, open_offline

CHARACTERS = 2_800
FOUND = 10
ROUNDS = 5
HERE = Path(__file__).parent


def read_questions(path):
    """Return (pages that answer, language -> question) of every line."""
    head, *lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line]
    return [(line[0].split("|"), dict(zip(head[1:], line[1:], strict=True))) for line in lines]


def read_pages(folder):
    """Return language -> name -> text."""
    return {
        language.name: {
            file.stem: file.read_text("utf-8")[:CHARACTERS]
            for file in sorted(language.glob("*.txt"))
        }
        for language in sorted(folder.iterdir())
        if language.is_dir()
    }


def hits(products, names, answers):
    """Return the share of questions with an answering page among the first FOUND, and the mean of 1 / its rank."""
    ranks = []
    for row, wanted in zip(products, answers, strict=True):
        order = [names[place] for place in np.argsort(-row, kind="stable")]
        ranks.append(min(order.index(name) for name in wanted))
    return sum(rank < FOUND for rank in ranks) / len(ranks), sum(1 / (1 + r) for r in ranks) / len(
        ranks
    )


async def measure(model, folder, questions):
    """Print the lines of one model."""
    process = psutil.Process()
    before = process.memory_full_info()
    made = open_offline(model, threads=1, truncate=True)
    started = time.perf_counter()
    await made.embed(["a"], "query")
    opened_s = time.perf_counter() - started
    asked, pages = read_questions(questions), read_pages(folder)
    answers = [wanted for wanted, _ in asked]
    loaded = process.memory_full_info()
    print(
        f"\n{model}: {made.fingerprint().dimensions} numbers; opened in {opened_s:.2f} s, "
        f"{(loaded.uss - before.uss) / 1e6:.0f} MB of its own, {(loaded.pss - before.pss) / 1e6:.0f} MB with its share of mapped files"
    )
    times = {language: [] for language in asked[0][1]}
    vectors = {}
    for language, spent in times.items():
        texts = [told[language] for _, told in asked]
        for _ in range(ROUNDS):
            for text in texts:
                clock, cpu = time.perf_counter(), time.process_time()
                await made.embed([text], "query")
                spent.append((time.perf_counter() - clock, time.process_time() - cpu))
        vectors[language] = (await made.embed(texts, "query")).values
    for language, texts in pages.items():
        cpu = time.process_time()
        found = await made.embed(list(texts.values()))
        cpu_s = time.process_time() - cpu
        print(
            f"  {language} pages: {len(texts) / cpu_s:.1f} a second of one core, {sum(found.tokens) / cpu_s:.0f} tokens"
        )
        for asks, rows in vectors.items():
            share, mean = hits(rows @ found.values.T, list(texts), answers)
            print(f"    {asks} questions: hit@{FOUND} {share:.2f}, MRR {mean:.2f}")
    for language, pairs in times.items():
        wall, cpu = (np.array(column) * 1e3 for column in zip(*pairs, strict=True))
        print(
            f"  {language} question: p50 {np.median(wall):.1f} ms, p99 {np.percentile(wall, 99):.1f}; processor time {np.median(cpu):.1f}, "
            f"medians of the rounds {', '.join(f'{np.median(part):.1f}' for part in np.array_split(wall, ROUNDS))}"
        )
    worked = process.memory_full_info()
    print(f"  after work: {(worked.uss - before.uss) / 1e6:.0f} MB of its own")
    await made.aclose()


def run(model, folder, questions):
    """Measure one model in this process."""
    asyncio.run(measure(model, folder, questions))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", type=Path)
    parser.add_argument("--questions", type=Path, default=HERE / "embedding_questions.tsv")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    asked = parser.parse_args()
    for model in asked.models:
        child = multiprocessing.get_context("spawn").Process(
            target=run, args=(model, asked.pages, asked.questions)
        )
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(child.exitcode)


if __name__ == "__main__":
    main()
