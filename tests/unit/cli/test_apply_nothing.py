"""`consilium apply` in a folder without a configuration."""

from consilium.cli.app import main


def test_in_the_wrong_folder_it_takes_no_role_away(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["apply", "--yes", "--state", str(tmp_path)]) == 64
    said = capsys.readouterr().err
    assert "there is no consilium.yaml" in said
    assert str(tmp_path) in said
