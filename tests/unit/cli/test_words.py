"""What commands read and say: flags, SSE, receipts, Ray's log names, memory by part, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest

from consilium.cli import answers, app, chat, keys
from consilium.cli.up import closing_lines
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.origins import Origins
from consilium.kernel.ports import TABLE, allot
from consilium.supervisor import commands, haproxy, model_step, part_memory, ray_logs, redis_server
from consilium.supervisor.factories import derive, own_redis_url, public_redis
from consilium.supervisor.loop import failure_of
from consilium.supervisor.parts import ray_logs_of
from consilium.supervisor.processes import identify
from consilium.supervisor.state_folder import Cluster, PartRecord, Pid, StateFolder, parse_cluster


def test_a_flag_that_is_none_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(["apply", "other.yaml"])
    assert ended.value.code == app.EXIT_USAGE
    said = capsys.readouterr().err
    assert "usage: consilium apply" in said
    assert "-c FILE" in said


def chat_args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    chat.add(parser.add_subparsers())
    return parser.parse_args(["chat", *words])


def test_a_role_is_a_model_name() -> None:
    assert chat.body_of(chat_args("hi", "--role", "philosopher"), [])["model"] == "role/philosopher"
    assert chat.body_of(chat_args("hi"), [])["model"] == "auto"


def test_flags_of_chat_become_the_request() -> None:
    body = chat.body_of(
        chat_args(
            "hi", "--model", "base", "--profile", "think", "--no-stream", "--max-tokens", "5"
        ),
        [{"role": "user", "content": "hi"}],
    )
    assert body == {
        "model": "base",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "consilium": {"profile": "think"},
        "max_tokens": 5,
    }


def test_a_stream_is_read_to_done() -> None:
    events = [
        'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}',
        ": comment",
        'data: {"choices": [{"delta": {"reasoning": "hm"}}]}',
        'data: {"choices": [{"delta": {"content": "Paris\u2028"}}]}',
        'data: {"choices": [], "usage": {}}',
        "data: [DONE]",
        'data: {"choices": [{"delta": {"content": "never"}}]}',
    ]
    raw = "".join(f"{event}\n\n" for event in events).encode()
    chunks = [raw[at : at + 7] for at in range(0, len(raw), 7)]
    assert list(chat.pieces(chunks)) == [chat.Piece("", "hm"), chat.Piece("Paris\u2028")]


def test_an_error_in_a_stream_ends_it() -> None:
    assert list(
        chat.pieces(
            [
                b'data: {"error": {"message": "gone"}}\n\n',
                b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n',
            ]
        )
    ) == [chat.Piece(error="gone")]


def test_the_other_sides_sentence_is_kept() -> None:
    err = answers.failure_of(
        404,
        json.dumps(
            {"error": {"code": "model_unknown", "message": "There is no model 'x'."}}
        ).encode(),
    )
    assert (err.code, err.public(), app.exit_code(err)) == (
        "model_unknown",
        "There is no model 'x'.",
        app.EXIT_NOT_FOUND,
    )
    assert answers.failure_of(502, b"<html>bad gateway</html>").code == "upstream_down"


def test_a_profile_that_nobody_has_is_not_found_like_a_role() -> None:
    error = {
        "code": "invalid_request",
        "message": "consilium.profile: there is no profile 'nope'",
        "param": "consilium.profile",
    }
    assert (
        app.exit_code(answers.failure_of(400, json.dumps({"error": error}).encode()))
        == app.EXIT_NOT_FOUND
    )
    assert (
        app.exit_code(
            answers.failure_of(400, json.dumps({"error": {**error, "param": "top_p"}}).encode())
        )
        == app.EXIT_FAILURE
    )


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_question_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["chat", text]) == app.EXIT_USAGE
    assert "the question is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2W", 1_209_600)],
)
def test_spans(text: str, seconds: float) -> None:
    assert keys.span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1d", "1y"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        keys.span_s(text)


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ("Redis server v=7.2.4 sha=00000000:0", 7),
        ("Valkey server v=9.1.2 sha=0", 9),
        ("Redis server v=6.0.16", 6),
        ("nonsense", None),
    ],
)
def test_redis_versions(text: str, major: int | None) -> None:
    assert redis_server.major_version(text) == major


def test_ray_workers_belong_to_parts() -> None:
    assert ray_logs.part_of_actor("ServeReplica:executor-core:Engine", ray_logs_of()) == "engine"
    assert ray_logs.part_of_actor("ServeReplica:gateway:Gateway", ray_logs_of()) == "gateway"
    assert ray_logs.part_of_actor("HAProxyManager", ray_logs_of()) == "ray"


def test_worker_logs_are_found_by_the_name_of_the_actor(tmp_path: Path) -> None:
    logs = tmp_path / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-a-1.err").write_text(
        ":job_id:01\n:actor_name:ServeReplica:executor-core:Engine\nloading\n"
    )
    (logs / "worker-a-1.out").write_text(
        ":job_id:01\n:actor_name:ServeReplica:executor-core:Engine\n"
    )
    (logs / "worker-b-2.err").write_text(":job_id:01\n:actor_name:ServeController\nINFO\n")
    (logs / "raylet.err").write_text("")
    assert [path.name for path in ray_logs.worker_logs(tmp_path, "engine", ray_logs_of())] == [
        "worker-a-1.err"
    ]
    assert [path.name for path in ray_logs.worker_logs(tmp_path, "ray", ray_logs_of())] == [
        "worker-b-2.err"
    ]
    assert ray_logs.worker_logs(tmp_path, "redis", ray_logs_of()) == ()


def test_why_an_engine_did_not_start_is_the_last_word_of_its_replicas(tmp_path: Path) -> None:
    logs = tmp_path / "session_latest" / "logs"
    logs.mkdir(parents=True)
    assert ray_logs.why_not_started(tmp_path) == ""
    for number, reason in enumerate(
        ('"out of memory"', r'"max_model_len (9) is \"too\" \"long\""')
    ):
        line = f'timestamp=1 level=error service=engine event=engine_start_failed executor=core exception="x" reason={reason}'
        path = logs / f"worker-{number}.err"
        path.write_text(f":actor_name:ServeReplica:executor-core:Engine\n{line}\n")
        os.utime(path, (number, number))
    assert ray_logs.why_not_started(tmp_path) == 'max_model_len (9) is "too" "long"'


def test_memory_goes_to_the_nearest_part_above() -> None:
    def process(pid: int, parent: int, title: str) -> part_memory.Process:
        return part_memory.Process(Pid(pid, 0.0), parent, title)

    found = [
        process(1, 0, "python -m consilium.supervisor.app"),
        process(2, 1, "valkey-server"),
        process(3, 1, "python -m consilium.engine.ray_head"),
        process(4, 3, "raylet"),
        process(5, 4, "ray::ServeReplica:executor-core:Engine"),
        process(6, 5, "VLLM::EngineCore"),
        process(7, 4, "ray::ServeReplica:gateway:Gateway"),
        process(8, 4, "ray::ServeController"),
        process(9, 1, "an orphan"),
    ]
    parts = part_memory.assign(found, {1: "supervisor", 2: "redis", 3: "ray"}, ray_logs_of())
    assert parts == {
        1: "supervisor",
        2: "redis",
        3: "ray",
        4: "ray",
        5: "engine",
        6: "engine",
        7: "gateway",
        8: "ray",
        9: "supervisor",
    }


def test_every_model_of_our_own_is_made_and_remote_ones_are_not() -> None:
    config = {
        "model": "demo",
        "executors": {
            "a": {"kind": "engine", "model": "tiny"},
            "b": {"kind": "remote", "model": "x"},
            "c": {"kind": "engine", "model": "demo"},
        },
    }
    assert model_step.models_of(config) == ("demo", "tiny")


def test_progress_lines() -> None:
    assert model_step.progress_line("making demo", 0, None) == "making demo"
    assert (
        model_step.progress_line("downloading x", 5 * 2**20, 20 * 2**20)
        == "downloading x (5 MiB of 20 MiB, 25 %)"
    )


def test_a_part_that_says_why_keeps_its_words_and_its_code() -> None:
    failure = failure_of(
        "model", 68, ("noise", "error: x: there is no folder /x", "next: Name a folder.")
    )
    assert (failure.code, failure.sentence, failure.next_step) == (
        "model_missing",
        "x: there is no folder /x",
        "Name a folder.",
    )


def test_a_part_that_is_killed_says_so() -> None:
    failure = failure_of("ray", -9, ("last words",))
    assert failure.code == "part_failed"
    assert "signal 9" in failure.sentence
    assert "last words" in failure.sentence


def test_cluster_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.make()
    cluster = Cluster(
        "/s",
        "up",
        "m",
        "tiny",
        1.5,
        "boot",
        Pid(5, 2.25),
        {"openai": "http://h/v1"},
        {"http": 1},
        "csl_x",
        "csl",
        {"redis": PartRecord("up", pids=(Pid(7, 1.0),))},
    )
    folder.write_cluster(cluster)
    assert folder.read_cluster() == cluster
    assert folder.cluster.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.root.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', '{"format": 1, "parts": []}', "[1]"])
def test_a_damaged_cluster_json_is_told(tmp_path: Path, text: str) -> None:
    folder = StateFolder(tmp_path)
    folder.cluster.write_text(text)
    with pytest.raises(ConsiliumError) as caught:
        folder.read_cluster()
    assert caught.value.code == "state_damaged"


def test_a_state_folder_that_cannot_be_made_is_a_wrong_setting_and_nothing_to_delete(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConsiliumError) as caught:
        StateFolder(tmp_path / "file").make()
    assert caught.value.code == "config_invalid"
    assert "--state DIR" in caught.value.public()
    assert "delete" not in caught.value.row.next_step


def test_format_is_checked() -> None:
    with pytest.raises(ValueError, match="format"):
        parse_cluster({"format": 0})


def test_every_port_is_named_and_nothing_usual_is_left(tmp_path: Path) -> None:
    ports = allot({}, usable=lambda _port: True)
    assert set(ports) == {place.name for place in TABLE}
    said = json.dumps(
        [
            commands.ray_command(ports=ports, temp=tmp_path),
            commands.cluster_environment(
                ports=ports, temp=tmp_path, sockets=tmp_path, token="t", mark="m", metrics=tmp_path
            ),
        ]
    )
    for name, port in ports.items():
        if name not in {"http", "grpc", "metrics", "redis"}:
            assert str(port) in said, name


def test_haproxy_is_started_without_splicing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "of the owner" / "haproxy"
    named.parent.mkdir()
    named.write_text('#!/bin/sh\necho "$@"\n')
    named.chmod(0o700)
    monkeypatch.setenv(haproxy.VARIABLE, str(named))
    (script,) = haproxy.write_start_script(tmp_path, Origins(is_any=False)).values()
    config = tmp_path / "a b"
    config.write_text(f"    stats socket {tmp_path / 'admin'} level admin\n")
    done = subprocess.run([script, "-f", config, "-db"], check=True, capture_output=True, text=True)
    words = done.stdout.splitlines()[-1]
    assert words.startswith(f"-dS -f {tmp_path}/h")
    assert words.endswith(".cfg -db")


def test_without_haproxy_ray_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "binary", lambda: None)
    assert haproxy.write_start_script(tmp_path, Origins(is_any=False)) == {}


def test_ray_temp_leaves_room_for_socket_names() -> None:
    folder = StateFolder(Path("/a/very/long/path" * 20))
    assert (
        len(
            str(folder.ray_temp / "session_2026-11-21_10-40-17_149023_1234567/sockets/plasma_store")
        )
        <= 107
    )
    assert len(str(folder.ray_temp / "serve" / ("f" * 56) / "metrics.sock")) <= 107
    assert len(str(folder.engine_sockets / ("f" * 36))) <= 107


def test_passwords_differ_by_purpose_and_stay() -> None:
    assert derive("s\n", "redis") == derive("s", "redis") != derive("s", "ray")
    assert public_redis(own_redis_url("s", 6390)) == "127.0.0.1:6390"


def test_the_closing_lines_hold_a_request_that_can_be_pasted() -> None:
    cluster = Cluster(
        "/s",
        "up",
        "m",
        "tiny",
        0.0,
        "b",
        Pid(1, 0.0),
        {"openai": "http://h/v1", "grpc": "h:2", "metrics": "http://h/metrics"},
        key="csl_k",
    )
    text = "\n".join(closing_lines(cluster))
    assert "curl -s http://h/v1/chat/completions -H 'Authorization: Bearer csl_k'" in text
    assert text.endswith(" --state /s")


def test_a_process_is_known_by_number_and_start() -> None:
    import os

    from consilium.supervisor import processes

    me = identify(os.getpid())
    assert me is not None
    assert processes.is_alive(me)
    assert not processes.is_alive(Pid(me.pid, me.started + 1))
    assert not processes.is_alive(Pid(0, 0.0))


def test_every_command_has_a_module_with_add_and_run() -> None:
    import importlib

    for module, _ in app.COMMANDS.values():
        if module.rpartition(".")[2] in {"plan", "tokens", "explain"}:
            continue
        found = importlib.import_module(module)
        assert callable(found.add)
        assert callable(found.run)


def test_help_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([]) == app.EXIT_USAGE
    assert "up" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        app.main(["uo"])
    assert caught.value.code == app.EXIT_USAGE


def test_an_error_is_one_sentence_with_a_way_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert app.main(["status", "--state", str(tmp_path)]) == 71
    said = capsys.readouterr().err
    assert (
        said
        == f"error: No cluster is running (state folder {tmp_path}).\nnext: Start one with 'consilium up', or name the folder of a running one with --state DIR.\n"
    )


def test_only_the_newest_sessions_of_ray_are_kept(tmp_path: Path) -> None:
    from consilium.supervisor.factories import forget_sessions

    for day in range(1, 6):
        (tmp_path / f"session_2026-01-0{day}_00-00-00").mkdir()
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_2026-01-05_00-00-00")
    forget_sessions(tmp_path, kept=2)
    assert sorted(path.name[:18] for path in tmp_path.glob("session_2*")) == [
        "session_2026-01-04",
        "session_2026-01-05",
    ]


def test_a_log_says_what_was_written_since_the_start(tmp_path: Path) -> None:
    from consilium.supervisor.part_process import last_lines

    log = tmp_path / "part.log"
    log.write_text("old\n\nnew 1\nnew 2\n")
    assert last_lines(log, 5, 4) == ["new 1", "new 2"]
    assert last_lines(log, 1) == ["new 2"]
    assert last_lines(tmp_path / "none", 3) == []
