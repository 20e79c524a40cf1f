"""How many bytes each tenant may keep in a folder.

    quota = DiskQuota(folder, limit=50 << 30, setting="jobs.max_bytes_per_tenant")
    account = quota.account("home")          FOLDER/home/... is what it pays for
    account.take(1 << 20)                    before the bytes are written
    account.give(size)                       when a file is deleted, or becomes shorter

What is on its way counts as much as what lies there, so that two uploads at once can't pass the limit together. The folder is measured when an account is
first asked for; from then on only what goes through the account is known. Knows folders and sizes. Does not know what the files are.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from consilium.kernel.errors import ConsiliumError


@dataclass(slots=True)
class Account:
    """What one tenant keeps.

    used   bytes on the disk and on their way there
    limit  bytes that it may have
    """

    folder: Path
    limit: int
    setting: str
    used: int = 0

    def take(self, size: int) -> None:
        """Count bytes that will be written. Raises ConsiliumError(storage_quota), and counts nothing then."""
        if self.used + size > self.limit:
            raise ConsiliumError(
                "storage_quota",
                tenant=self.folder.name,
                used=self.used,
                limit=self.limit,
                setting=self.setting,
            )
        self.used += size

    def give(self, size: int) -> None:
        """Count bytes that are no longer there."""
        self.used = max(0, self.used - size)

    def measure(self) -> None:
        """Look at the disk: at the beginning, and after a write that failed, of which nobody knows how much is there."""
        self.used = bytes_under(self.folder)


class DiskQuota:
    """The accounts of a folder that has one folder per tenant in it.

    setting  the key of the configuration that a refusal names
    """

    def __init__(self, folder: Path, limit: int, *, setting: str) -> None:
        self._folder = folder
        self._limit = limit
        self._setting = setting
        self._accounts: dict[str, Account] = {}

    def account(self, tenant: str) -> Account:
        """Return the account of a tenant."""
        if tenant not in self._accounts:
            account = Account(self._folder / tenant, self._limit, self._setting)
            account.measure()
            self._accounts[tenant] = account
        return self._accounts[tenant]


def bytes_under(folder: Path) -> int:
    """Return the bytes of all files in a folder and the folders in it; 0 if there is none. Links are not followed; what goes away meanwhile counts no more."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                seen = os.lstat(os.path.join(place, name))  # noqa: PTH118  a Path for each file costs more than looking at it
                found += seen.st_size if stat.S_ISREG(seen.st_mode) else 0
    return found
