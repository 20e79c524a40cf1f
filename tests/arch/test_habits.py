"""Habits of the house: where the environment is read, who prints, how long a file is, what a file is called, what lies at the top."""

import ast
import re

from tests.arch.source import PACKAGE, REPOSITORY, repository_files, sources

ENVIRONMENT_READERS = ("kernel/config.py", "kernel/process.py")
ENVIRONMENT = {"environ", "environb", "getenv", "putenv", "unsetenv"}

TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "services",
    "protos",
    "helm",
    "k8s",
    "tests",
    ".ci",
    ".gitignore",
    "LICENSE",
    "Makefile",
    "CHANGELOG.md",
}

SPEAKS_AT = 500
NEVER_OVER = 600
LONG_FILES = {}
"""Python files over 500 lines, each with its reason."""

VAGUE = re.compile(
    r"^(utils?|helpers?|managers?|common|misc|data|info|stuff)\.py$|_(utils?|helpers?|manager)\.py$"
)


def test_the_environment_is_read_in_the_kernel_only():
    wrong = []
    for source in sources():
        if source.name in ENVIRONMENT_READERS:
            continue
        for node in source.nodes:
            by_attribute = (
                isinstance(node, ast.Attribute)
                and node.attr in ENVIRONMENT
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
            )
            by_name = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and any(alias.name in ENVIRONMENT for alias in node.names)
            )
            if by_attribute or by_name:
                wrong.append(f"services/consilium/{source.name}:{node.lineno}")
    assert not wrong, (
        "use kernel.config.environment_value, or kernel.process.set_variable for libraries that read nothing else:\n"
        + "\n".join(wrong)
    )


def test_only_the_cli_and_the_supervisor_print():
    wrong = [
        f"services/consilium/{source.name}:{call.lineno}"
        for source in sources()
        if source.room not in ("cli", "supervisor")
        for call in source.calls()
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]
    assert not wrong, "\n".join(wrong)


def test_files_are_short_or_have_a_reason():
    lengths = {}
    for path in repository_files():
        if path.suffix == ".py" and not path.is_relative_to(PACKAGE / "v1"):
            lengths[path.relative_to(REPOSITORY).as_posix()] = path.read_text(
                encoding="utf-8"
            ).count("\n")
    long = {name: count for name, count in lengths.items() if count > SPEAKS_AT}
    assert not {name: count for name, count in long.items() if count > NEVER_OVER}
    assert long.keys() <= LONG_FILES.keys(), (
        f"over {SPEAKS_AT} lines; split by meaning, or give the reason in LONG_FILES: {long}"
    )
    assert LONG_FILES.keys() <= lengths.keys(), (
        f"no longer there: {LONG_FILES.keys() - lengths.keys()}"
    )


def test_files_are_named_after_what_they_are():
    wrong = [source.name for source in sources() if VAGUE.search(source.path.name)]
    assert not wrong, wrong


def test_no_promises_in_the_text():
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    wrong = []
    for path in repository_files():
        if (
            path.suffix in (".py", ".md", ".toml", ".proto", ".yaml", ".yml", ".sh", ".json", "")
            and path.stat().st_size < 1_000_000
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            wrong += [
                f"{path.relative_to(REPOSITORY)}:{number}"
                for number, line in enumerate(text.splitlines(), 1)
                if words.search(line)
            ]
    assert not wrong, "\n".join(wrong)


def test_the_top_level_is_closed():
    entries = {path.relative_to(REPOSITORY).parts[0] for path in repository_files()}
    assert entries <= TOP_LEVEL, entries - TOP_LEVEL
