from consilium.kernel import protogen


def test_write_makes_fresh_and_removes_what_has_no_source(tmp_path):
    (tmp_path / "old_pb2.py").write_text("")
    (tmp_path / "a_pb2.py").write_text("before")
    made = {"__init__.py": "x\n", "a_pb2.py": "after"}
    assert protogen.stale(made, tmp_path) == ["__init__.py", "a_pb2.py", "old_pb2.py"]
    protogen.write(made, tmp_path)
    assert protogen.stale(made, tmp_path) == []
    assert not (tmp_path / "old_pb2.py").exists()


def test_a_folder_that_is_not_there_is_stale(tmp_path):
    assert protogen.stale({"a_pb2.py": ""}, tmp_path / "v1") == ["a_pb2.py"]


def test_check_says_which_files_differ(monkeypatch, capsys):
    monkeypatch.setattr(protogen, "generate", lambda *_: {"odd_pb2.py": ""})
    assert protogen.main(["--check"]) == 1
    assert "odd_pb2.py" in capsys.readouterr().err
