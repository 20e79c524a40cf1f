"""What a kubelet puts into the folders of a pod: files of ConfigMaps and Secrets, exchanged whole when they change, and folders that the pod's group may write to.

As a real kubelet writes them: the files lie in a folder of their own, `..data` is a link to it, and each file is a link through `..data`. A change is a new folder and
one rename, so nobody sees half of it.
"""

from __future__ import annotations

import base64
import itertools
import os
import shutil

_numbers = itertools.count()


def files_of(volume, objects):
    """Return name -> bytes of a ConfigMap's or a Secret's volume, or None where it is none.

    objects  (plural, name) -> the object
    """
    if "configMap" in volume:
        held = objects("configmaps", volume["configMap"]["name"])
        files = {name: text.encode() for name, text in held.get("data", {}).items()}
        return _chosen(files, volume["configMap"])
    if "secret" in volume:
        held = objects("secrets", volume["secret"]["secretName"])
        files = {name: base64.b64decode(text) for name, text in held.get("data", {}).items()}
        return _chosen(files, volume["secret"])
    return None


def _chosen(files, source):
    items = source.get("items") or [{"key": key, "path": key} for key in files]
    return {item["path"]: files[item["key"]] for item in items}


def write_whole(folder, files):
    """Make the folder have these files and no others. Returns whether anything changed."""
    data = folder / "..data"
    if data.exists() and {f.name: f.read_bytes() for f in data.iterdir()} == files:
        return False
    before = data.resolve() if data.exists() else None
    fresh = folder / f"..{os.getpid()}_{next(_numbers)}"
    fresh.mkdir(parents=True)
    for name, content in files.items():
        (fresh / name).write_bytes(content)
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(data)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for old in folder.iterdir():
        if not old.name.startswith("..") and old.name not in files:
            old.unlink()
    if before is not None:
        shutil.rmtree(before)
    return True


def lend(folder, group):
    """Let the pod's group write into a folder, as fsGroup does."""
    folder.mkdir(parents=True, exist_ok=True)
    if group is not None:
        os.chown(folder, -1, group)
    folder.chmod(0o2777)
