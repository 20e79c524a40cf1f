"""Generate services/consilium/v1 from protos/, or check that what is committed is fresh.

    python -m consilium.kernel.protogen                               write
    python -m consilium.kernel.protogen --check                       compare; exits 1 and names the files that differ
    python -m consilium.kernel.protogen --root DIR --package a/b      the same for a room that is not ours: its .proto lies in DIR/a/b, and the output beside it

Knows where the compiler is and where its output goes. Needs the dev extra (grpcio-tools, mypy-protobuf). A .proto lies under the path of its Python
package, so the imports in the output are right as they come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).resolve().parents[1]
PROTOS: Final = SOURCES.parents[1] / "protos"
TARGET: Final = SOURCES / "v1"
PACKAGE_DOC: Final = '"""Generated from protos/consilium/v1 by `make protos`. Never edited."""\n'


def generate(protos: Path = PROTOS, package: str = "consilium/v1") -> dict[str, str]:
    """Return file name -> text of everything that is made from the .proto files of a package, and of the package's __init__.py where it is ours.

    protos   root, below which the folders are named as the packages
    package  such as consilium/v1

    Raises RuntimeError if the compiler fails; what is wrong stands on stderr.
    """
    from grpc_tools import protoc  # noqa: PLC0415  the dev extra, wanted here only

    files = sorted(str(path.relative_to(protos)) for path in protos.glob(f"{package}/*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    # The plugin lies beside the interpreter, which need not be on the PATH.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [
            f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")
        ]
        code = protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *plugins, *outputs, *files])
        if code != 0:
            msg = f"protoc ended with {code}"
            raise RuntimeError(msg)
        made = {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted(Path(folder, package).iterdir())
        }
    return {"__init__.py": PACKAGE_DOC, **made} if protos == PROTOS else made


def stale(made: Mapping[str, str], target: Path = TARGET) -> list[str]:
    """Return the names of files that are missing, different, or there without a source."""
    there = (
        {
            path.name: path.read_text(encoding="utf-8")
            for path in target.glob("*.py*")
            if path.is_file() and ("_pb2" in path.name or path.name in made)
        }
        if target.exists()
        else {}
    )
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write(made: Mapping[str, str], target: Path = TARGET) -> None:
    """Write the files that differ and delete those without a source."""
    target.mkdir(exist_ok=True)
    for name in stale(made, target):
        if name in made:
            (target / name).write_text(made[name], encoding="utf-8")
        else:
            (target / name).unlink()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m consilium.kernel.protogen",
        description="Generate services/consilium/v1 from protos/.",
    )
    parser.add_argument("--root", type=Path, default=PROTOS, help="where a room of your own lies")
    parser.add_argument("--package", default="consilium/v1", help="its package as a path")
    parser.add_argument("--check", action="store_true", help="compare only")
    chosen = parser.parse_args(words)
    ours = chosen.root == PROTOS
    target = TARGET if ours else chosen.root / chosen.package
    made = generate(chosen.root, chosen.package)
    if not chosen.check:
        write(made, target)
        return 0
    differing = stale(made, target)
    if differing:
        told = "services/consilium/v1" if ours else target
        sys.stderr.write(
            f"error: {told} is not what its protos say: {', '.join(differing)}\n"
            "next: Run 'make protos' and commit the result.\n"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
