"""The rules, the alerts and their tests before the real promtool, and the exported configuration before the real Prometheus: every file of those folders."""

import yaml
from tests.command import consilium
from tests.go import telemetry
from tests.real.prometheus import Prometheus, promtool
from tests.waiting import until

NAMES = {file.stem for file in telemetry.RULES}


def test_the_folders_are_found():
    assert telemetry.RULES
    assert telemetry.DASHBOARDS
    assert {file.name.removesuffix("_test.yaml") for file in telemetry.TESTS} >= NAMES


def test_promtool_finds_nothing_in_the_rules():
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", *telemetry.RULES)
    assert code == 0, said


def test_the_rules_do_what_their_tests_say():
    code, said = promtool("test", "rules", *telemetry.TESTS)
    assert code == 0, said


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent():
    firing, silent = set(), set()
    for file in telemetry.TESTS:
        for group in yaml.safe_load(file.read_text())["tests"]:
            for case in group.get("alert_rule_test", []):
                (firing if case.get("exp_alerts") else silent).add(case["alertname"])
    known = set(telemetry.alerts(telemetry.RULES))
    assert known
    assert known - firing == set(), "alerts that fire in no test"
    assert known - silent == set(), "alerts that are silent in no test"
    assert (firing | silent) - known == set(), "tests of alerts that are not there"


def test_no_alert_and_no_record_stands_in_two_files():
    for names in (telemetry.alerts, telemetry.recorded):
        assert len(names(telemetry.RULES)) == sum(len(names([file])) for file in telemetry.RULES)


def test_prometheus_takes_what_is_exported(tmp_path):
    done = consilium("dashboards", "export", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    config = next((tmp_path / "out").rglob("prometheus.yml"))
    code, said = promtool("check", "config", "--lint=all", "--lint-fatal", config)
    assert code == 0, said
    told = yaml.safe_load(config.read_text())
    folder = config.parent
    told["rule_files"] = [
        str(folder / file) for file in told["rule_files"]
    ]  # its folder is another one here
    with Prometheus(tmp_path / "server", told) as server:
        loaded = {rule["name"] for rule in server.rules()}
        wanted = set(telemetry.alerts(telemetry.RULES)) | telemetry.recorded(telemetry.RULES)
        assert loaded == wanted
        jobs = {job["job_name"] for job in told["scrape_configs"]}
        until(lambda: set(server.targets()) == jobs, 120, "every job was taken")
