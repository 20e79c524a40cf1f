"""What is registered, as it can be read at any time: in memory, so that nobody ever waits for it.

    held = shelves.find("sport")

Knows holdings. Does not know files, SQL, or what changes them (library.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from consilium.lora_router.holdings import Holdings, reference_of
from consilium.lora_router.ports import Named, Proof, Registered, StoredVersion, Uses


class Shelves:
    """The reading half of a library."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._holdings = Holdings()

    @property
    def holdings(self) -> Holdings:
        """Return what is registered: a value that does not change any more."""
        return self._holdings

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that the store takes; what several names share counts once, and what is damaged does not."""
        files, damaged = self._holdings.files(), self._holdings.damaged
        return sum(sum(sizes.values()) for sha, sizes in files.items() if sha not in damaged)

    @property
    def damaged(self) -> Mapping[str, str]:
        """Return hash -> what is wrong with the files of a version, of those that answer nobody for it."""
        return self._holdings.damaged

    def names(self) -> tuple[Registered, ...]:
        """Return the names, in order, but for those that are being removed."""
        names = sorted(self._holdings.names.items())
        return tuple(row.registered for name, row in names if not self._holdings.is_hidden(name))

    def waiting(self) -> tuple[Named, ...]:
        """Return the names of which a stored version is to take over as soon as it may."""
        rows = self._holdings.names.items()
        return tuple(r for name, r in rows if r.waiting and not self._holdings.is_hidden(name))

    def get(self, name: str) -> tuple[Registered, tuple[StoredVersion, ...]]:
        """Return a name and its versions, the newest first, but for those that are being removed; one that is damaged says so as its proof.

        Raises ConsiliumError(adapter_unknown).
        """
        row, hidden = self._holdings.named(name), self._holdings.hidden
        found = [
            h.version for h in self._holdings.newest_first(name) if reference_of(h) not in hidden
        ]
        damaged = self._holdings.damaged
        return row.registered, tuple(
            replace(each, proof=Proof.DAMAGED) if each.sha in damaged else each for each in found
        )

    def find(self, text: str) -> StoredVersion:
        """Return the version that NAME, NAME:VERSION or a reference means. Raises ConsiliumError: invalid_request, adapter_unknown, conflict (also for one that is damaged)."""
        version = self._holdings.find(text).version
        self._holdings.check_whole(version)
        return version

    def find_sum(self, address: str) -> StoredVersion | None:
        """Return the sum that was stored under this address (identity.sum_sha), or None."""
        found = self._holdings.sum_at(address)
        return found.version if found else None

    def uses(self, text: str) -> Uses:
        """Return what happened with a version. Raises as `find` does."""
        return self._holdings.find(text).uses

    def versions(self) -> tuple[StoredVersion, ...]:
        """Return every version, the sums too, but for those that are being removed, or are damaged."""
        hidden, damaged = self._holdings.hidden, self._holdings.damaged
        return tuple(
            h.version
            for h in self._holdings.all()
            if reference_of(h) not in hidden and h.version.sha not in damaged
        )
