"""Bytes of a folder whose files come and go."""

import os
import shutil
import threading

from consilium.kernel.disk_quota import bytes_under


def test_files_count_and_links_do_not(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "one")
    assert bytes_under(tmp_path) == 15
    assert bytes_under(tmp_path / "none") == 0


def test_what_goes_away_meanwhile_is_no_fault(tmp_path):
    ends = threading.Event()

    def come_and_go():
        while not ends.is_set():
            folder = tmp_path / "upload"
            folder.mkdir(exist_ok=True)
            for number in range(20):
                (folder / str(number)).write_bytes(b"x")
            shutil.rmtree(folder)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert bytes_under(tmp_path) <= 20
    finally:
        ends.set()
        other.join()
    assert not os.listdir(tmp_path)
