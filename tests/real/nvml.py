"""A driver's library made for tests: nvml_fake.c says what it can be told to do."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml_fake.c")


def build(folder, source=SOURCE, *, old=False):
    """Return a folder for LD_LIBRARY_PATH with the library in it. The test is skipped where there is no C compiler.

    source  C of a library that does something else
    """
    compiler = shutil.which("cc")
    if compiler is None or importlib.util.find_spec("pynvml") is None:
        pytest.skip("needs a C compiler and nvidia-ml-py")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "libnvidia-ml.so.1"
    words = [compiler, "-shared", "-fPIC", "-w", *(["-DOLD"] if old else []), "-o", made, source]
    subprocess.run(words, check=True, timeout=240)
    return folder
