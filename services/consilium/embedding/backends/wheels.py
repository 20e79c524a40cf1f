"""Model files out of installed wheels, and ONNX Runtime sessions over them. No wheel's own code is run.

Knows packages and checksums. Does not know models.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import set_variable


def wheel_file(package: str, inside: str, wheel: str, sha256: str | None = None) -> Path:
    """Return a file of an installed package.

    package  import name
    inside   path below the package's folder
    wheel    name and version of the wheel, for the sentence
    sha256   what the file must be; None = not looked at

    Raises ConsiliumError(config_invalid) if the wheel is not installed or holds another file.
    """
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    file = Path(places[0]) / inside if places else None
    if file is None or not file.is_file():
        raise ConsiliumError(
            "config_invalid",
            package,
            key="embedding.model",
            reason=f"offline needs the wheel {wheel} ('make setup' installs it)",
        )
    if sha256 is not None and _sha256(file) != sha256:
        raise ConsiliumError(
            "config_invalid",
            str(file),
            key="embedding.model",
            reason=f"{file} is not the file of {wheel}; install the wheel again",
        )
    return file


def open_session(model: bytes | Path, threads: int) -> Any:
    """Return an ONNX Runtime session on the CPU."""
    set_variable("ORT_DISABLE_TELEMETRY", "1")  # it would make a device id in the home folder
    import onnxruntime  # noqa: PLC0415 - only who embeds offline pays for it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=["CPUExecutionProvider"],
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
