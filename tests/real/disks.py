"""A provisioner of the tests' own: each claim that waits for a disk gets a volume in a folder of this machine."""

import contextlib
import threading

POLL_S = 0.3


def provide(plane, path_of):
    """Give each claim that waits, and names no volume of its own, a volume.

    path_of  (namespace, claim) -> folder
    """
    for claim in plane.list("/api/v1/persistentvolumeclaims"):
        meta, spec = claim["metadata"], claim["spec"]
        if claim["status"].get("phase") != "Pending" or spec.get("volumeName"):
            continue
        volume = {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"pv-{meta['uid']}"},
            "spec": {
                "capacity": spec["resources"]["requests"], "accessModes": spec["accessModes"],
                "storageClassName": spec.get("storageClassName", ""), "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(path_of(meta["namespace"], meta["name"]))},
                "claimRef": {"namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
            },
        }  # fmt: skip
        plane.api("POST", "/api/v1/persistentvolumes", volume, ok=False)


class Provisioner(threading.Thread):
    """Provides disks until it is closed, in a control plane without a kubelet of ours."""

    def __init__(self, plane):
        super().__init__(daemon=True)
        self._plane, self._closing = plane, threading.Event()

    def run(self):
        while not self._closing.wait(POLL_S):
            with contextlib.suppress(Exception):  # the server may be gone for a moment, as in life
                provide(self._plane, lambda space, claim: self._plane.folder / "disks" / f"{space}-{claim}")  # fmt: skip

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._closing.set()
        self.join(60)
