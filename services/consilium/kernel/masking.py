"""What of a configuration may be shown: secrets become a mask.

Knows secret fields, names of variables that sound like secrets, and user names in addresses. Does not know which section a value belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

MASK: Final = "********"
_SECRET_NAME: Final = re.compile(
    r"KEY|TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL|AUTHORIZATION", re.IGNORECASE
)
_USERINFO: Final = re.compile(r"://[^/@\s]+@")


def plain(value: Any, *, masked: bool) -> Any:
    """Return a tree of models as plain values; with `masked` without its secrets."""
    if isinstance(value, SecretStr):
        return MASK if masked else value.get_secret_value()
    if isinstance(value, BaseModel):
        return {
            name: plain(getattr(value, name), masked=masked) for name in type(value).model_fields
        }
    if isinstance(
        value, Mapping
    ):  # names of the owner's choice: variables of a process, extra arguments
        return {
            key: MASK
            if masked and isinstance(item, str | list) and sounds_secret(key)
            else plain(item, masked=masked)
            for key, item in value.items()
        }
    if masked and isinstance(value, str):
        return without_userinfo(value)
    if isinstance(value, list | tuple):
        return [plain(item, masked=masked) for item in value]
    return str(value) if isinstance(value, Path) else value


def sounds_secret(name: object) -> bool:
    """Whether the value under a name of the owner's choice, such as HF_TOKEN, is better not shown."""
    return bool(_SECRET_NAME.search(str(name)))


def without_userinfo(text: str) -> str:
    """Return a text with the user and password of every address in it masked."""
    return _USERINFO.sub(f"://{MASK}@", text)


def shown_address(url: str) -> str:
    """Return an address without what stands before its host, which may be a password, and without its query, which may hold one.

    Of an address that is none, such as a password with a slash in it, rather too little is shown than too much.
    """
    scheme, slashes, rest = url.partition("//") if "//" in url else ("", "", url)
    return f"{scheme}{slashes}{rest.rpartition('@')[2]}".partition("?")[0].partition("#")[0]
