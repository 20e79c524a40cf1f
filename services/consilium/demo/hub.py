"""Models and adapters from the Hugging Face hub: found, downloaded with progress, resumed where it broke off, checked against the hub's own checksums.

A finished download is never asked about again: `org/name` stays at the commit that was fetched first, so a start needs no network and a model does not change
under its owner; `org/name@commit` fetches another. Only weights in safetensors, JSON, tokenizer and template files of the top folder are taken, of an adapter its two
files; code never is.
Knows the hub's layout through `huggingface_hub`. Does not know engines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from consilium.demo.checks import check_folder
from consilium.demo.folder import Report, Step, only_one, require_room, sha256, silent
from consilium.kernel.errors import ConsiliumError

REPOSITORY: Final = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$", re.ASCII)
MARKER: Final = "consilium-download.json"
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
DEFAULT_REVISION: Final = "main"
DEFAULT_ENDPOINT: Final = "https://huggingface.co"

_WANTED: Final = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "added_tokens.txt",
)
_CONNECT_TIMEOUT_S: Final = 10
_ATTEMPTS: Final = 2  # downloads of one file whose checksum is wrong


@dataclass(frozen=True, slots=True)
class Remote:
    """One file at the hub. `size` is 0 where it does not say; `digest` is the SHA-256 of a large file, the git blob id of a small one, or empty."""

    path: str
    size: int
    digest: str
    is_large: bool


@dataclass(frozen=True, slots=True)
class Access:
    """How the hub is reached; None = as huggingface_hub is set (HF_ENDPOINT, HF_TOKEN, HF_HOME).

    endpoint   base URL of the hub, or of a mirror
    token      access token
    cache_dir  cache shared with other programs, in which a finished model is used where it lies
    """

    endpoint: str | None = None
    token: str | None = None
    cache_dir: Path | None = None


PUBLIC: Final = Access()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fetched.

    wanted     patterns of its files
    check      raises ConsiliumError(model_missing) unless a folder holds a whole one
    is_shared  whether one that another program has downloaded is used where it lies, in a cache of links
    """

    wanted: tuple[str, ...]
    check: Callable[[Path, str], None]
    is_shared: bool


def _check_adapter(folder: Path, name: str) -> None:
    for file in ADAPTER_FILES:
        if not (folder / file).is_file():
            reason = f"the repository has no {file}, so it is no adapter for PEFT"
            raise ConsiliumError("model_missing", name=name, reason=reason)


ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
MODEL: Final = Kind(_WANTED, check_folder, is_shared=True)
ADAPTER: Final = Kind(ADAPTER_FILES, _check_adapter, is_shared=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A downloaded commit."""

    path: Path
    commit: str


def download(
    repository: str,
    revision: str | None,
    models_dir: Path,
    report: Report = silent,
    *,
    access: Access = PUBLIC,
    kind: Kind = MODEL,
) -> Snapshot:
    """Return the folder of `repository` at `revision` (None = its default branch), downloading what is missing.

    Raises ConsiliumError: model_missing (unknown, gated, no network, no safetensors, wrong checksum), disk_full.
    """
    home = home_of(repository, models_dir)
    wanted = revision or DEFAULT_REVISION
    home.mkdir(parents=True, exist_ok=True)
    with only_one(home / ".lock"):
        there = _finished(home, wanted)
        if there is None and kind.is_shared:
            there = _in_shared_cache(repository, wanted, access)
        if there is not None:
            return there
        with _sentences(repository, wanted, access):
            commit, files = _listing(repository, wanted, access, kind)
            folder = home / "snapshots" / commit
            _Download(repository, commit, folder, access, report).fetch_all(files)
        kind.check(folder, repository)
        _write_marker(folder, files)
        _note_revision(home, wanted, commit)
        return Snapshot(folder, commit)


def home_of(repository: str, models_dir: Path) -> Path:
    """Return the folder of all revisions of a repository."""
    return models_dir / "hub" / repository.replace("/", "--")


def chosen(names: list[str], wanted: tuple[str, ...] = _WANTED) -> list[str]:
    """Return the files that a served model needs, or those that are wanted, out of those of the top folder."""
    found = [
        name
        for name in names
        if "/" not in name and any(fnmatchcase(name, pattern) for pattern in wanted)
    ]
    if any(fnmatchcase(name, "model*.safetensors") for name in found):
        found = [
            name for name in found if not fnmatchcase(name, "consolidated*.safetensors")
        ]  # the same weights a second time
    return sorted(found)


def is_here(name: str, models_dir: Path, *, access: Access = PUBLIC) -> bool:
    """Return whether `org/name[@revision]` lies whole on this disk. Asks no network."""
    repository, _, revision = name.partition("@")
    home, wanted = home_of(repository, models_dir), revision or DEFAULT_REVISION
    return (_finished(home, wanted) or _in_shared_cache(repository, wanted, access)) is not None


def _finished(home: Path, revision: str) -> Snapshot | None:
    commit = revision
    ref = _ref(home, revision)
    if ref.is_file():
        commit = ref.read_text("utf-8").strip()
    folder = home / "snapshots" / commit
    try:
        sizes: dict[str, int] = json.loads((folder / MARKER).read_text("utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return None
    return Snapshot(folder, commit) if whole else None


def _in_shared_cache(repository: str, revision: str, access: Access) -> Snapshot | None:
    """Return the model where another program has downloaded it whole already."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, cache_dir=access.cache_dir, local_files_only=True
            )
        )
        check_folder(folder, repository)
    except (OSError, ValueError, ConsiliumError):
        return None
    return Snapshot(folder, folder.name)


def _ref(home: Path, revision: str) -> Path:
    return home / "refs" / revision.replace("/", "--")


def _note_revision(home: Path, revision: str, commit: str) -> None:
    ref = _ref(home, revision)
    ref.parent.mkdir(exist_ok=True)
    ref.write_text(commit, "utf-8")


def _write_marker(folder: Path, files: list[Remote]) -> None:
    (folder / MARKER).write_text(
        json.dumps({file.path: (folder / file.path).stat().st_size for file in files}, indent=1),
        "utf-8",
    )


def _listing(
    repository: str, revision: str, access: Access, kind: Kind
) -> tuple[str, list[Remote]]:
    """Return the commit and the files to take from it."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - half a second that only a download needs

    found = HfApi(endpoint=access.endpoint, token=access.token).model_info(
        repository, revision=revision, files_metadata=True, timeout=_CONNECT_TIMEOUT_S
    )
    siblings = {row.rfilename: row for row in found.siblings or []}
    files = []
    for name in chosen(list(siblings), kind.wanted):
        row = siblings[name]
        size = row.lfs.size if row.lfs else row.size
        files.append(
            Remote(
                name,
                int(size or 0),
                (row.lfs.sha256 if row.lfs else row.blob_id) or "",
                bool(row.lfs),
            )
        )
    if not any(file.path.endswith(".safetensors") for file in files):
        formats = sorted(
            {Path(name).suffix for name in siblings} & {".gguf", ".bin", ".pth", ".onnx"}
        )
        raise _missing(
            repository,
            f"the repository has no .safetensors files ({', '.join(formats) or 'no weights at all'}); take one that has them",
        )
    commit = str(found.sha)
    if not _COMMIT.fullmatch(commit):  # it becomes the name of a folder
        raise _missing(repository, "the hub or mirror names no commit; try another mirror")
    return commit, files


class _Meter:
    """Stands in for a progress bar: adds up bytes, prints nothing."""

    def __init__(self, what: str, done: int, total: int, report: Report) -> None:
        self._what, self._total, self._report = what, total, report
        self.done = done
        self.tell()

    def __call__(self, **_options: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def update(self, count: float = 1) -> None:
        """Count bytes; a negative number takes back what a restarted transfer counted."""
        self.done += int(count)
        self.tell()

    def tell(self) -> None:
        """Report where things stand."""
        self._report(Step(self._what, self.done, self._total))


@dataclass(frozen=True, slots=True)
class _Download:
    """The download of one commit."""

    repository: str
    commit: str
    folder: Path
    access: Access
    report: Report

    def fetch_all(self, files: list[Remote]) -> None:
        """Bring every file that is not there yet. Raises ConsiliumError(disk_full) before the first byte if there is no room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        total = sum(file.size for file in files)
        todo = [file for file in files if not _has_size(self.folder / file.path, file.size)]
        done = total - sum(file.size for file in todo)
        require_room(self.folder, sum(file.size - self._partial_size(file) for file in todo))
        for file in todo:
            self._fetch(
                file,
                _Meter(
                    f"downloading {self.repository}",
                    done + self._partial_size(file),
                    total,
                    self.report,
                ),
            )
            done += file.size

    def _fetch(self, file: Remote, meter: _Meter) -> None:
        """Bring one file; what a broken transfer left is continued, what fails its checksum is thrown away and fetched once more."""
        part = self._part(file)
        for _ in range(_ATTEMPTS):
            self._transfer(file, part, meter)
            self.report(Step(f"checking {file.path}", 0, None))
            if not file.digest or digest(part, is_large=file.is_large) == file.digest:
                part.rename(self.folder / file.path)
                return
            part.unlink()
            meter.update(-file.size)
        raise _missing(
            self.repository,
            f"{file.path} arrived {_ATTEMPTS} times with another checksum than the hub's; the mirror or a proxy changes it",
        )

    def _transfer(self, file: Remote, part: Path, meter: _Meter) -> None:
        from huggingface_hub import hf_hub_url  # noqa: PLC0415
        from huggingface_hub.file_download import http_get  # noqa: PLC0415 - hf_hub_download (2.4) throws a broken transfer away, this continues it
        from huggingface_hub.utils import build_hf_headers  # noqa: PLC0415

        url = hf_hub_url(
            self.repository, file.path, revision=self.commit, endpoint=self.access.endpoint
        )
        headers = {**build_hf_headers(token=self.access.token), "Accept-Encoding": "identity"}
        target: IO[bytes]
        with part.open("ab") as target:
            start = target.tell()
            if file.size and start > file.size:
                target.truncate(0)
                start = 0
            bar: Any = meter
            http_get(
                url,
                target,
                resume_size=start,
                headers=headers,
                expected_size=file.size or None,
                displayed_filename=file.path,
                tqdm_class=bar,
            )

    def _part(self, file: Remote) -> Path:
        return self.folder / f".{file.path}.part"

    def _partial_size(self, file: Remote) -> int:
        part = self._part(file)
        return min(part.stat().st_size, file.size) if part.is_file() else 0


def digest(path: Path, *, is_large: bool) -> str:
    """Return the checksum by which the hub knows a file: SHA-256 of a large one, the git blob id of a small one."""
    if is_large:
        return sha256(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest()


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _sentences(repository: str, revision: str, access: Access) -> Iterator[None]:
    """Turn what the hub and the network say into one sentence with the way out."""
    from huggingface_hub import errors  # noqa: PLC0415

    host = access.endpoint or DEFAULT_ENDPOINT
    try:
        yield
    except ConsiliumError:
        raise
    except errors.GatedRepoError as cause:
        reason = f"it is gated; accept its terms at {host}/{repository}, make an access token there, and set HF_TOKEN"
        raise _missing(repository, reason) from cause
    except errors.RevisionNotFoundError as cause:
        raise _missing(
            repository,
            f"the repository has no revision {revision!r}; {host}/{repository} lists its branches and commits",
        ) from cause
    except errors.RepositoryNotFoundError as cause:
        reason = f"{host} has no such repository, or it is private (then set HF_TOKEN); and there is no local folder of that name"
        raise _missing(repository, reason) from cause
    except errors.OfflineModeIsEnabled as cause:
        raise _missing(
            repository,
            "it is not on this machine, and HF_HUB_OFFLINE forbids the download; unset it, or name a local folder",
        ) from cause
    except errors.HfHubHTTPError as cause:
        status = cause.response.status_code
        reason = f"{host} answered with HTTP {status}; try again later: a download that has begun goes on where it stopped"
        if status in (401, 403):
            reason = f"{host} refuses access (HTTP {status}); check HF_TOKEN"
        raise _missing(repository, reason) from cause
    except Exception as cause:
        if not _is_network(cause):
            raise
        reason = f"{host} cannot be reached ({type(cause).__name__}); name a local folder, or try again: a download that has begun goes on where it stopped"
        raise _missing(repository, reason) from cause


def _is_network(error: Exception) -> bool:
    """Whether the error is the network's; the hub's HTTP library changed its name between versions, so it is known by its package."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in {
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
        "urllib3",
    }


def _missing(repository: str, reason: str) -> ConsiliumError:
    return ConsiliumError("model_missing", name=repository, reason=reason)
