"""`consilium dashboards export`: what Grafana and Prometheus need, and files of others stay."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from consilium.cli.app import EXIT_FAILURE, EXIT_USAGE, main
from consilium.gpu_metrics import boards
from consilium.supervisor.state_folder import Cluster, Pid, StateFolder

PROMETHEUS = "prometheus/prometheus.yml"
DASHBOARDS = "grafana/provisioning/dashboards/consilium.yaml"
DATASOURCES = "grafana/provisioning/datasources/consilium.yaml"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "my dashboards"


@pytest.fixture
def export(tmp_path, out):
    def call(*words):
        return main(["dashboards", "export", str(out), "--state", str(tmp_path / "state"), *words])

    return call


def read(out, name):
    return yaml.safe_load((out / name).read_text("utf-8"))


def files(out):
    return {
        str(path.relative_to(out)): path.read_text("utf-8")
        for path in out.rglob("*")
        if path.is_file()
    }


def test_it_writes_what_both_need(export, out, capsys):
    assert export() == 0
    for name, text in boards.dashboards().items():
        assert (out / "grafana" / "dashboards" / name).read_text("utf-8") == text
    for name, text in boards.rules().items():
        assert (out / "prometheus" / "rules" / name).read_text("utf-8") == text
    (provider,) = read(out, DASHBOARDS)["providers"]
    assert provider["options"]["path"] == str(out / "grafana" / "dashboards")
    (source,) = read(out, DATASOURCES)["datasources"]
    assert source["isDefault"]
    told = read(out, PROMETHEUS)
    assert told["rule_files"] == ["rules/*.yaml"]
    said = capsys.readouterr().out
    assert source["url"].removeprefix("http://") in said
    for line in said.splitlines():
        if line.startswith("  "):
            paths = [word.rpartition("=")[2] for word in shlex.split(line) if str(out) in word]
            assert paths
            assert all(Path(path).exists() for path in paths), line


def test_prometheus_reads_the_page_of_the_cluster_that_was_started_here(export, out, tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.make()
    address = "http://127.0.0.1:19090/metrics"
    folder.write_cluster(
        Cluster(
            state=str(folder.root),
            phase="up",
            mark="m",
            model="demo",
            started=0.0,
            boot="b",
            supervisor=Pid(1, 0.0),
            addresses={"metrics": address},
        )
    )
    assert export() == 0
    (job,) = read(out, PROMETHEUS)["scrape_configs"]
    assert job["job_name"] == boards.JOB
    assert job["honor_labels"] is True
    assert (job["scheme"], job["metrics_path"]) == ("http", "/metrics")
    assert job["static_configs"] == [{"targets": ["127.0.0.1:19090"]}]


def test_without_a_cluster_it_says_which_page_it_takes(export, out, capsys):
    assert export() == 0
    (job,) = read(out, PROMETHEUS)["scrape_configs"]
    assert job["static_configs"][0]["targets"][0] in capsys.readouterr().out


def test_pages_that_are_alike_are_one_job(export, out):
    assert export("--page", "http://a:9090/metrics", "--page", "http://b:9090") == 0
    (job,) = read(out, PROMETHEUS)["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["a:9090", "b:9090"]}]


def test_pages_that_are_not_alike_are_still_the_job_that_rules_ask_for(export, out):
    assert export("--page", "https://a/one", "--page", "http://b:9090/metrics") == 0
    jobs = read(out, PROMETHEUS)["scrape_configs"]
    assert [(job["scheme"], job["metrics_path"]) for job in jobs] == [("https", "/one"), ("http", "/metrics")]  # fmt: skip
    assert len({job["job_name"] for job in jobs}) == 2
    for job in jobs:
        assert job["relabel_configs"] == [{"target_label": "job", "replacement": boards.JOB}]


def test_grafana_finds_another_prometheus(export, out):
    assert export("--prometheus", "https://metrics.lan/prometheus") == 0
    assert read(out, DATASOURCES)["datasources"][0]["url"] == "https://metrics.lan/prometheus"


@pytest.mark.parametrize("words", [["--page", "a:9090"], ["--prometheus", "metrics.lan"], ["--page", "http://"]])  # fmt: skip
def test_what_is_no_address_is_refused_and_nothing_is_written(export, out, capsys, words):
    assert export(*words) == EXIT_USAGE
    assert words[1] in capsys.readouterr().err
    assert not out.exists()


def test_a_second_time_replaces_the_first(export, out):
    assert export() == 0
    assert export("--page", "http://b:9090/metrics") == 0
    assert read(out, PROMETHEUS)["scrape_configs"][0]["static_configs"] == [{"targets": ["b:9090"]}]


@pytest.mark.parametrize("name", [PROMETHEUS, "grafana/dashboards/home.json"])
def test_a_file_of_somebody_else_stays(export, out, capsys, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    assert export() == EXIT_FAILURE
    said = capsys.readouterr().err
    assert name in said
    assert "--force" in said
    assert files(out) == {name: "mine"}
    assert export("--force") == 0
    assert (out / name).read_text("utf-8") != "mine"


def test_a_file_that_was_changed_since_stays(export, out):
    assert export() == 0
    changed = out / "prometheus" / "rules" / "serving.yaml"
    changed.write_text(changed.read_text("utf-8") + "# mine\n")
    before = files(out)
    assert export("--page", "http://b:9090") == EXIT_FAILURE
    assert files(out) == before


def test_a_link_is_not_followed(export, out, tmp_path):
    elsewhere = tmp_path / "elsewhere.yml"
    elsewhere.write_text("theirs")
    (out / "prometheus").mkdir(parents=True)
    (out / PROMETHEUS).symlink_to(elsewhere)
    assert export() == EXIT_FAILURE
    assert export("--force") == 0
    assert elsewhere.read_text() == "theirs"
    assert not (out / PROMETHEUS).is_symlink()


def test_what_an_earlier_version_wrote_and_this_one_does_not_goes(export, out):
    assert export() == 0
    (written,) = out.glob(".*.json")
    sums = json.loads(written.read_text())
    for name, text in (("grafana/dashboards/old.json", "{}"), ("prometheus/rules/kept.yaml", "mine")):  # fmt: skip
        (out / name).write_text(text)
        sums[name] = (
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # that of {}
        )
    sums["../beside.json"] = sums[name]
    (out.parent / "beside.json").write_text("{}")
    written.write_text(json.dumps(sums))
    assert export() == 0
    assert not (out / "grafana" / "dashboards" / "old.json").exists()
    assert (out / "prometheus" / "rules" / "kept.yaml").read_text() == "mine"
    assert (out.parent / "beside.json").exists(), "outside of the folder nothing is touched"


@pytest.mark.parametrize("text", ["", "[]", "no json"])
def test_a_list_that_cannot_be_read_makes_everything_foreign_that_differs(export, out, text):
    assert export() == 0
    (written,) = out.glob(".*.json")
    written.write_text(text)
    assert export() == 0, "nothing differs"
    written.write_text(text)
    assert export("--page", "http://b:9090") == EXIT_FAILURE


def test_a_folder_that_cannot_be_written_is_told(export, out, capsys):
    out.write_text("a file")
    assert export() == EXIT_FAILURE
    said = capsys.readouterr().err
    assert str(out) in said
    assert "next: Name a folder" in said


def test_they_are_in_the_wheel():
    # hatchling takes whatever lies below the package; what no editor leaves behind is there when it is installed.
    for folder, found in (("dashboards", boards.dashboards()), ("rules", boards.rules())):
        assert found.keys() == {path.name for path in (boards.HERE / folder).iterdir()}
