"""Makes the pages that `tests.bench.embedding` searches: man pages in English and their Russian translations, out of Debian's packages.

    apt-get download manpages manpages-dev manpages-ru manpages-ru-dev
    python -m tests.bench.man_pages FOLDER_OF_THE_DEB_FILES PAGES

writes PAGES/en/*.txt and PAGES/ru/*.txt: the 400 pages that both languages have, the same names in both. The texts belong to their authors and are not ours to ship.
"""

import argparse
import gzip
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

PAGES = 400
SHORTEST = 600
"""Characters; shorter pages only point to another one."""
SECTIONS = ("1", "4", "5", "7", "8", "2", "3")
"""Whole, in this order; what is left is filled from the last two by the hash of the name."""
_TITLED = re.compile(r"^\.\s*(SH|SS|B|I|BR|IR|RB|RI|BI|IB|SM|SB|TP|IP)\b ?")
_ESCAPES = (
    (re.compile(r"\\f(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s[-+]?\d"), ""),
    (re.compile(r'\\".*'), ""),
    (re.compile(r"\\\*(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\\((em|en)|\\\[(em|en)\]"), "-"),
    (re.compile(r"\\\((aq|lq|rq|dq)|\\\[(aq|lq|rq|dq)\]"), "'"),
    (re.compile(r"\\(\[[^\]]*\]|\(..)"), ""),
    (re.compile(r"\\[&%/,|^:c~]"), ""),
    (re.compile(r"\\(.)"), r"\1"),
)


def plain(source):
    """Return the words of a page in man(7) macros."""
    lines = []
    for line in source.splitlines():
        if line.startswith((".", "'")):
            title = _TITLED.match(line)
            if not title:
                continue
            line = line[title.end() :].replace('"', "")
            if title.group(1) in ("TP", "IP") and re.fullmatch(r"[\d\s\\(bu\[\]n*+-]*", line):
                continue
        for pattern, instead in _ESCAPES:
            line = pattern.sub(instead, line)
        lines.append(line.strip())
    return re.sub(r"\s+", " ", " ".join(lines)).strip()


def read(folder):
    """Return name -> text of every page in a folder of man sections; links and pointers are left out."""
    found = {}
    for section in SECTIONS:
        for file in sorted((folder / f"man{section}").glob("*.gz")):
            if file.is_symlink():
                continue
            source = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
            text = plain(source)
            if not source.lstrip().startswith(".so ") and len(text) >= SHORTEST:
                found[file.name.removesuffix(".gz")] = text
    return found


def chosen(names):
    """Return PAGES of the names, always the same."""
    rank = {section: place for place, section in enumerate(SECTIONS)}
    ends = {name: name.rpartition(".")[2] for name in names}
    wholes = sorted((n for n in names if rank[ends[n]] < 5), key=lambda n: (rank[ends[n]], n))
    rest = sorted(set(names) - set(wholes), key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    return [*wholes, *rest][:PAGES]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("pages", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for package in sorted(asked.packages.glob("manpages*.deb")):
            subprocess.run(["dpkg", "-x", package, made], check=True)
        manual = Path(made) / "usr/share/man"
        english, russian = read(manual), read(manual / "ru")
    names = chosen([name for name in english if name in russian])
    for language, texts in (("en", english), ("ru", russian)):
        (asked.pages / language).mkdir(parents=True, exist_ok=True)
        for name in names:
            (asked.pages / language / f"{name}.txt").write_text(texts[name], "utf-8")
    print(f"{len(names)} pages in each language under {asked.pages}")


if __name__ == "__main__":
    main()
