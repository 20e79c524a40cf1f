"""A pod whose files are older than what its owner means is waited for."""

from consilium.kernel import config_revision


def waited(config, revision, limit_s=10.0, *, shown_after=None):
    """Return what a wait for the revision gives, and the seconds that it took."""
    past = [0.0]

    def pause(seconds):
        past[0] += seconds
        if shown_after is not None and past[0] >= shown_after:
            config_revision.file_of(config, "gateway").write_text(revision)

    found = config_revision.wait_for(
        str(config), "gateway", revision, limit_s=limit_s, pause=pause, now=lambda: past[0]
    )
    return found, past[0]


def test_files_of_the_revision_are_not_waited_for(tmp_path):
    config = tmp_path / "consilium.yaml"
    config_revision.file_of(config, "gateway").write_text("new\n")
    assert waited(config, "new") == (True, 0.0)


def test_old_files_are_waited_for(tmp_path):
    config = tmp_path / "consilium.yaml"
    config_revision.file_of(config, "gateway").write_text("old")
    assert waited(config, "new", shown_after=3.0) == (True, 3.0)


def test_no_file_is_an_old_one(tmp_path):
    config = tmp_path / "consilium.yaml"
    assert waited(config, "new", shown_after=2.0) == (True, 2.0)


def test_it_ends_at_its_limit(tmp_path):
    config = tmp_path / "consilium.yaml"
    assert waited(config, "new", limit_s=5.0) == (False, 5.0)


def test_who_is_told_no_revision_waits_for_nothing(tmp_path):
    assert waited(tmp_path / "consilium.yaml", "") == (True, 0.0)
