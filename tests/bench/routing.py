"""Which adapter answers a question by its meaning: how often rightly, when nobody is chosen, how fast, and whether a conversation keeps its own.

    python -m tests.bench.routing                       # the offline model that is the default
    python -m tests.bench.routing --model multilingual-e5-small
    python -m tests.bench.routing --half tune           # what may be looked at while a rule is chosen

Prints for the half that was tuned on and for the half that was not: macro F1 over eight adapters and nobody (aim 0.9), of the abstentions the share that is right
(precision, aim 0.95) and of nobody's lines the share that abstains (recall), Russian against English, and what raw cosines would reach with the threshold
that is best for them on the tuning half; the same for lines that were written later, and which pairs are taken for each other. Then risk against coverage, fewer examples, talks, and the time of a decision after the embedding: exits 1 when
its median is over the bar of 0.2 ms. The embedding is made once and kept in .cache/routing.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np

from consilium.gateway.adapters import WITHOUT_EXAMPLES
from consilium.gateway.meaning import Common, Prototypes, Rules, brief_words, nearest
from consilium.gateway.neutral_questions import FOLLOW_UPS, NEUTRAL, SMALL_TALK
from consilium.gateway.shortlist import DIRECTIONS, KEPT, Grouped, Outline
from tests.bench.routing_lines import NOBODY, Vectors, domains, prototypes, questions, talks

BAR_MS = 0.2
AIMS = "aims: F1 0.9, abstention precision 0.95"
DECISIONS, ROUNDS = 4000, 10
COVERAGES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SIZES = ((8, 7), (1000, 4))


def decided(lines, vectors, made, rules):
    """Return what is decided for each line, and the likeness of the nearest adapter."""
    rows = vectors.of([(line.text, "query") for line in lines])
    found = [
        nearest(row, made, rules, brief=brief_words(line.text))
        for line, row in zip(lines, rows, strict=True)
    ]
    return [each.name or NOBODY for each in found], [each.candidates[0].score for each in found]


def macro_f1(wanted, found):
    """Return the mean over classes of 2 tp / (2 tp + fp + fn)."""
    each = []
    for name in dict.fromkeys(wanted):
        hits = sum(w == f == name for w, f in zip(wanted, found, strict=True))
        each.append(2 * hits / (wanted.count(name) + found.count(name)))
    return sum(each) / len(each)


def bounds(wanted, found, seed=7):
    """Return the 95 % bootstrap bounds of macro F1."""
    dice = random.Random(seed)
    pairs = list(zip(wanted, found, strict=True))
    drawn = (zip(*dice.choices(pairs, k=len(pairs)), strict=True) for _ in range(500))
    values = sorted(macro_f1(list(w), list(f)) for w, f in drawn)
    return values[12], values[487]


def told(wanted, found):
    """Return the figures of some lines as words."""
    silent = [w for w, f in zip(wanted, found, strict=True) if f == NOBODY]
    answered = [(w, f) for w, f in zip(wanted, found, strict=True) if f != NOBODY]
    right = silent.count(NOBODY)
    low, high = bounds(wanted, found)
    wrong = sum(w != f for w, f in answered)
    return (
        f"F1 {macro_f1(wanted, found):.3f} [{low:.2f}, {high:.2f}], abstention precision {right / max(1, len(silent)):.3f} "
        f"recall {right / max(1, wanted.count(NOBODY)):.3f}, answered {len(answered)} of {len(wanted)}, {wrong} of them wrongly"
    )


def best_threshold(lines, vectors, made):
    """Return the threshold with the highest macro F1 on some lines."""
    wanted = [line.domain for line in lines]
    tried = [n / 200 for n in range(200)]
    scored = [
        (macro_f1(wanted, decided(lines, vectors, made, Rules(threshold=t, margin=0))[0]), -t)
        for t in tried
    ]
    return -max(scored)[1]


def confused(wanted, found):
    """Return who was taken for whom, as words."""
    pairs = Counter((w, f) for w, f in zip(wanted, found, strict=True) if w != f)
    return ", ".join(f"{w} for {f} {count}" for (w, f), count in pairs.most_common())


def show_quality(vectors, rules, halves):
    """Print how often the decision is right."""
    made, raw = (prototypes(vectors, domains(), with_neutral=told) for told in (True, False))
    first, later = questions(), questions(more=True)
    tuned = [line for line in first if line.part == "tune"]
    of_raw = Rules(threshold=best_threshold(tuned, vectors, raw), margin=0)
    print(f"\nthreshold {rules.threshold:g}, margin {rules.margin:g}; {AIMS}")
    for part in halves:
        for name, lines in {
            "300 lines": first,
            "184 later": later,
            "all": first + later,
        }.items():
            for language in ("", "ru", "en"):
                some = [x for x in lines if x.part == part and language in ("", x.language)]
                wanted = [line.domain for line in some]
                found, _ = decided(some, vectors, made, rules)
                print(f"  {part}, {name} {language or 'both'}: {told(wanted, found)}")
                if not language:
                    print(f"    taken: {confused(wanted, found)}")
        some = [line for line in first if line.part == part]
        found, _ = decided(some, vectors, raw, of_raw)
        wanted = [line.domain for line in some]
        print(f"  {part}, raw cosines at {of_raw.threshold:g}: {told(wanted, found)}")
        show_risk(some, vectors, made, part)
        for name, rows, limits in (
            ("English examples only", domains(language="en"), rules),
            ("Russian examples only", domains(language="ru"), rules),
            ("domain texts only", domains(with_examples=False), without_examples(rules)),
        ):
            found, _ = decided(some, vectors, prototypes(vectors, rows), limits)
            print(f"  {part}, {name}, threshold {limits.threshold:g}: {told(wanted, found)}")


def without_examples(rules):
    """Return the rules as they are for adapters that have no examples."""
    return replace(rules, threshold=rules.threshold - WITHOUT_EXAMPLES)


def show_risk(lines, vectors, made, part):
    """Print which share is answered wrongly when only the surest lines are answered."""
    found, scores = decided(lines, vectors, made, Rules(threshold=-1, margin=0))
    order = np.argsort(-np.array(scores))
    wrong = np.array([line.domain != name for line, name in zip(lines, found, strict=True)])
    print(
        f"  {part}, answered share: wrong among them (a third of all lines is nobody's): "
        + ", ".join(
            f"{share:.1f}: {wrong[order[: round(share * len(lines))]].mean():.2f}"
            for share in COVERAGES
        )
    )


def show_talks(vectors, rules, halves):
    """Print how many turns of talks are answered by whom they should be."""
    made = prototypes(vectors, domains())
    print("\ntalks: right turns of all, where the subject stays and where it is new")
    for part in halves:
        for more in (False, True):
            for sticky in (True, False):
                some = [turn for turn in talks(more=more) if turn.part == part]
                seen = played(some, vectors, made, rules, sticky=sticky)
                print(
                    f"  {part}, {'20 later' if more else '20 first'}, {'in its talk' if sticky else 'each turn by itself'}: "
                    + ", ".join(f"{kind} {sum(right)}/{len(right)}" for kind, right in seen.items())
                )


def played(turns, vectors, made, rules, *, sticky):
    """Return which turns are answered rightly: kind -> a list of yes and no."""
    seen = {"stays": [], "new": [], "new, not the first turn": []}
    present = before = talk = None
    rows = vectors.of([(turn.text, "query") for turn in turns])
    for turn, row in zip(turns, rows, strict=True):
        if turn.talk != talk:
            talk, present, before = turn.talk, None, None
        words = len(turn.text.split())
        found = nearest(
            row,
            made,
            rules,
            present=present if sticky else None,
            words=words,
            brief=brief_words(turn.text),
        )
        right = (found.name or NOBODY) == turn.domain
        seen["stays" if turn.domain == before else "new"].append(right)
        if before not in (None, turn.domain):
            seen["new, not the first turn"].append(right)
        present, before = found.name, turn.domain
    return seen


def show_outline(vectors, seed=1, rounds=10):
    """Print how far down the right adapter stands when real questions are compared along a few directions only: adapters of four texts each, thrown together."""
    dice = np.random.default_rng(seed)
    told = (*questions(), *talks(), *questions(more=True), *talks(more=True))
    texts = list(dict.fromkeys(line.text for line in told))
    all_rows = vectors.of([(text, "query") for text in texts])
    common = Common.of(vectors.of([(text, "query") for text in NEUTRAL]))
    places = []
    for _ in range(rounds):
        mixed = common.taken_off(all_rows[dice.permutation(len(texts))])
        asked, matrix = mixed[:80], mixed[80 : 80 + (len(texts) - 80) // 4 * 4]
        grouped = Grouped.of(matrix, np.full(len(matrix) // 4, 4))
        outline = Outline.of(matrix, many=0)
        for row in asked:
            exact = grouped.scores(matrix @ row)
            rough = grouped.scores(outline.rows @ (outline.axes @ row))
            if exact.max() >= Rules().threshold:
                places.append((rough > rough[exact.argmax()]).mean())
    missed = np.mean(np.array(places) > KEPT / 1000)
    print(
        f"\nalong {DIRECTIONS} directions the right one of {len(grouped.counts)} adapters is not among the first {KEPT / 1000:.1%}, "
        f"which are looked at of 1000, for {missed:.1%} of {len(places)} questions"
    )


def measured(adapters, each, numbers=768, seed=1):
    """Return p50 and p99 of a decision in milliseconds, among random prototypes, and the lowest and highest median of its rounds."""
    dice = np.random.default_rng(seed)
    made = Prototypes.of(
        {
            f"a{n}": (dice.normal(size=(each, numbers)).astype(np.float32), ["text"] * each)
            for n in range(adapters)
        },
        dice.normal(size=(len(NEUTRAL), numbers)).astype(np.float32),
        dice.normal(size=(len(FOLLOW_UPS), numbers)).astype(np.float32),
        dice.normal(size=(len(SMALL_TALK), numbers)).astype(np.float32),
    )
    asked = dice.normal(size=(DECISIONS, numbers)).astype(np.float32)
    rules, taken = Rules(), []
    for number, row in enumerate(asked):
        present = f"a{number % adapters}" if number % 2 else None
        began = time.perf_counter()
        nearest(row, made, rules, present=present, most=2)
        taken.append((time.perf_counter() - began) * 1e3)
    medians = [float(np.median(part)) for part in np.array_split(taken, ROUNDS)]
    return float(np.median(taken)), float(np.percentile(taken, 99)), min(medians), max(medians)


def show_time():
    """Print how long a decision takes, in a process with one thread for numpy, as Ray starts a gateway. Return whether the bar is kept."""
    command = [sys.executable, "-m", "tests.bench.routing", "--time"]
    said = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    ).stdout
    print(f"\none decision after the embedding (bar: p50 {BAR_MS} ms)")
    kept = True
    for (adapters, each), (median, high, *spread) in zip(SIZES, json.loads(said), strict=True):
        kept = kept and median <= BAR_MS
        print(
            f"  {adapters} adapters x {each} prototypes: p50 {median:.3f} ms ({' to '.join(f'{x:.3f}' for x in spread)} in {ROUNDS} rounds), p99 {high:.3f} ms"
        )
    return kept


def main():
    """Print everything; return 1 when a decision takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="minilm-e5")
    parser.add_argument("--half", choices=("tune", "held"), help="this half only")
    parser.add_argument("--time", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.time:
        print(json.dumps([measured(*size) for size in SIZES]))
        return 0
    vectors, rules = Vectors(asked.model), Rules()
    print(asked.model)
    halves = (asked.half,) if asked.half else ("tune", "held")
    show_quality(vectors, rules, halves)
    show_talks(vectors, rules, halves)
    show_outline(vectors)
    return 0 if show_time() else 1


if __name__ == "__main__":
    sys.exit(main())
