"""Every name of vLLM that we use exists in the installed version. Reads source, imports nothing; run it before the pin is raised."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

import consilium

SERVICES = Path(consilium.__file__).parent
FOUND = importlib.util.find_spec("vllm")
pytestmark = pytest.mark.skipif(FOUND is None, reason="vLLM is not installed")

# Methods and attributes that we call on vLLM's objects: (module, class) -> names defined there.
USED = {
    ("vllm.v1.engine.async_llm", "AsyncLLM"): {
        "generate", "encode", "from_vllm_config", "get_supported_tasks", "reset_mm_cache", "shutdown", "errored", "dead_error",
        "get_num_unfinished_requests", "collective_rpc",
    },
    ("vllm.engine.arg_utils", "EngineArgs"): {"create_engine_config", "served_model_name", "disable_log_stats", "aggregate_engine_logging"},
    ("vllm.engine.arg_utils", "AsyncEngineArgs"): {"enable_log_requests"},
    ("vllm.entrypoints.launchers.cli_args", "BaseFrontendArgs"): {"chat_template", "tool_call_parser", "enable_auto_tool_choice"},
    ("vllm.entrypoints.openai.chat_completion.serving", "OpenAIServingChat"): {"create_chat_completion"},
    ("vllm.entrypoints.openai.completion.serving", "OpenAIServingCompletion"): {"create_completion"},
    ("vllm.entrypoints.openai.responses.serving", "OpenAIServingResponses"): {"create_responses"},
    ("vllm.entrypoints.openai.models.serving", "OpenAIServingModels"): {"show_available_models"},
    ("vllm.entrypoints.serve.tokenize.serving", "ServingTokenization"): {"create_tokenize", "create_detokenize"},
    ("vllm.entrypoints.pooling.base.serving", "PoolingBaseServing"): {"__call__"},
    ("vllm.outputs", "RequestOutput"): {"__init__"},
    ("vllm.utils.ompmultiprocessing", "OMPProcessManager"): {"configure_omp_envs"},
    ("vllm.v1.metrics.loggers", "StatLoggerBase"): {"record", "log_engine_initialized"},
    ("vllm.v1.metrics.loggers", "PrometheusStatLogger"): {
        "_gauge_cls", "_counter_cls", "_histogram_cls", "_spec_decoding_cls", "_kv_connector_cls", "_ec_connector_cls", "_perf_metrics_cls",
    },
    ("vllm.v1.worker.cpu_worker", "CPUWorker"): {"init_device"},
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner"): {"sample_tokens"},
    ("vllm.v1.worker.gpu_input_batch", "InputBatch"): {"num_reqs"},
    ("vllm.v1.worker.lora_model_runner_mixin", "LoRAModelRunnerMixin"): {"lora_manager", "load_lora_model"},
    ("vllm.lora.worker_manager", "WorkerLoRAManager"): {"_load_adapter", "device"},
    ("vllm.lora.worker_manager", "LRUCacheWorkerLoRAManager"): {"_adapter_manager", "add_adapter"},
    ("vllm.lora.model_manager", "LoRAModelManager"): {
        "_registered_adapters", "_active_adapters", "lora_index_to_id", "_create_merged_loras_inplace", "lora_slots", "capacity", "__len__",
        "remove_adapter", "list_adapters",
    },
    ("vllm.lora.model_manager", "LRUCacheLoRAModelManager"): {"activate_adapter"},
    ("vllm.v1.metrics.stats", "RequestStateStats"): {"queued_ts", "scheduled_ts", "first_token_ts"},
}  # fmt: skip
# Attributes that init_app_state must set, because routes are read from there.
STATE = {
    "openai_serving_chat",
    "openai_serving_completion",
    "openai_serving_responses",
    "openai_serving_models",
    "serving_tokenization",
    "serving_embedding",
}
SENTENCES = {
    "vllm/renderers/params.py": [
        "This model's maximum context length is ",
        "contains {qualifier}{token_count} input tokens",
        "which is the upper bound ",
    ],
    "vllm/entrypoints/serve/utils/api_utils.py": ["exceeds model's maximum ", "Input length ("],
}


def imports() -> list[tuple[str, str, str]]:
    """Return (file, module, name) of each import of vLLM in our code; name is empty for plain imports."""
    found = []
    for path in sorted(SERVICES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = str(path.relative_to(SERVICES))
            if (
                isinstance(node, ast.ImportFrom)
                and node.level == 0
                and (node.module or "").partition(".")[0] == "vllm"
            ):
                found += [(where, str(node.module), alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                found += [
                    (where, alias.name, "")
                    for alias in node.names
                    if alias.name.partition(".")[0] == "vllm"
                ]
    return found


def source_of(module: str) -> Path | None:
    assert FOUND is not None
    assert FOUND.origin is not None
    base = Path(FOUND.origin).parent.joinpath(*module.split(".")[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.exists():
            return path
    return None


@cache
def tree_of(module: str) -> ast.Module:
    path = source_of(module)
    assert path is not None, f"vLLM has no module {module}"
    return ast.parse(path.read_text(encoding="utf-8"))


def defines(tree: ast.AST, name: str) -> bool:
    """Whether a body binds the name, also under if, try and with, or lazily through a table of names."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.name == name
        ):
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import) and any(
            (alias.asname or alias.name.partition(".")[0]) == name for alias in node.names
        ):
            return True
        if isinstance(node, ast.Dict) and any(
            isinstance(key, ast.Constant) and key.value == name for key in node.keys
        ):
            return True
    return False


def is_set_attribute(part: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)


def test_we_use_vllm_somewhere() -> None:
    assert len(imports()) >= 10


@pytest.mark.parametrize(("where", "module", "name"), imports())
def test_each_import_resolves(where: str, module: str, name: str) -> None:
    if name and source_of(f"{module}.{name}") is not None:
        return
    assert not name or defines(tree_of(module), name), f"{where}: {module} has no {name}"
    assert source_of(module) is not None


@pytest.mark.parametrize(("module", "kind"), list(USED))
def test_each_method_exists(module: str, kind: str) -> None:
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef) and node.name == kind:
            body = ast.Module(node.body, [])
            missing = {name for name in USED[module, kind] if not defines(body, name)}
            missing -= {part.attr for part in ast.walk(body) if is_set_attribute(part)}
            assert not missing
            return
    pytest.fail(f"{module} has no class {kind}")


def test_the_state_is_filled_as_we_read_it() -> None:
    assert FOUND is not None
    assert FOUND.origin is not None
    sources = [
        Path(FOUND.origin).parent / "entrypoints" / part
        for part in ("launchers/api_server/app_state.py", "generate/api_router.py")
    ]
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [
            *sources,
            *(Path(FOUND.origin).parent / "entrypoints" / "pooling").rglob("*.py"),
        ]
    )
    assert not {name for name in STATE if f"state.{name}" not in text}


@pytest.mark.parametrize("path", list(SENTENCES))
def test_the_sentences_that_we_read_are_still_said(path: str) -> None:
    assert FOUND is not None
    assert FOUND.origin is not None
    text = (Path(FOUND.origin).parent.parent / path).read_text(encoding="utf-8")
    assert not [sentence for sentence in SENTENCES[path] if sentence not in text]


def test_a_class_of_models_is_looked_at_by_the_function_that_an_engine_on_cores_replaces() -> None:
    tree = tree_of("vllm.model_executor.models.registry")
    looks = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "inspect_model_cls"
    ]
    assert any("_run_in_subprocess(lambda:" in ast.unparse(node) for node in looks)
    (given,) = (
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "_run_in_subprocess"
    )
    assert [argument.arg for argument in given.args.args] == ["fn"]


def test_a_seed_is_kept_where_the_worker_of_an_engine_on_cores_looks_for_it() -> None:
    (made,) = (
        ast.unparse(node)
        for node in ast.walk(tree_of("vllm.v1.worker.cpu_worker"))
        if isinstance(node, ast.FunctionDef) and node.name == "init_device"
    )
    assert "self.model_runner = CPUModelRunner(" in made
    batch = ast.unparse(tree_of("vllm.v1.worker.gpu_input_batch"))
    assert "generators=self.generators," in batch  # the sampler gets the dictionary, not a copy
    runner = ast.unparse(tree_of("vllm.v1.worker.gpu_model_runner"))
    assert "self.input_batch.generators.get(int(i))" in runner  # who sets it back looks there too
    assert "self.discard_request_mask.np[:num_reqs]" in runner


def test_the_guard_against_swapped_adapters_is_there() -> None:
    """Engines without it could answer one caller with another's adapter."""
    assert "_last_slot_layout" in ast.unparse(tree_of("vllm.lora.model_manager"))


def test_both_model_runners_hold_adapters_alike() -> None:
    for module in ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner"):
        runner = next(
            node
            for node in ast.walk(tree_of(module))
            if isinstance(node, ast.ClassDef) and node.name == "GPUModelRunner"
        )
        assert "LoRAModelRunnerMixin" in {ast.unparse(base) for base in runner.bases}


def test_adapters_are_packed_before_they_are_kept_and_no_further() -> None:
    """We put a packed adapter into the table ourselves: what vLLM does there besides packing would be left out."""
    (add,) = (
        node
        for node in ast.walk(tree_of("vllm.lora.model_manager"))
        if isinstance(node, ast.FunctionDef) and node.name == "_add_adapter"
    )
    assert [ast.unparse(line) for line in add.body] == [
        "self._validate_moe_lora_format(lora)",
        "self._create_merged_loras_inplace(lora)",
        "self._registered_adapters[lora.id] = lora",
    ]
    (load,) = (
        node
        for node in ast.walk(tree_of("vllm.lora.worker_manager"))
        if isinstance(node, ast.FunctionDef) and node.name == "_load_adapter"
    )
    assert "self._adapter_manager._validate_moe_lora_format(lora)" in ast.unparse(load)


def test_a_step_adds_each_of_its_adapters_and_does_nothing_more_for_one_in_a_slot() -> None:
    """We say that those are there, and leave out what vLLM does then: look, and note the order of use."""
    (held,) = (
        node
        for node in ast.walk(tree_of("vllm.lora.worker_manager"))
        if isinstance(node, ast.ClassDef) and node.name == "LRUCacheWorkerLoRAManager"
    )
    bodies = {node.name: node for node in held.body if isinstance(node, ast.FunctionDef)}
    assert "for lora in loras_map.values():\n        self.add_adapter(lora)" in ast.unparse(bodies["_apply_adapters"])  # fmt: skip
    (loaded,) = (node for node in ast.walk(bodies["add_adapter"]) if isinstance(node, ast.If) and node.orelse)  # fmt: skip
    assert [ast.unparse(line) for line in loaded.orelse] == [
        "loaded = self._adapter_manager.get_adapter(lora_request.lora_int_id) is not None"
    ]
    last = ast.unparse(bodies["add_adapter"])
    assert last.endswith("self._adapter_manager.activate_adapter(lora_request.lora_int_id)\n    return loaded")  # fmt: skip


def test_the_serving_classes_look_adapters_up_in_the_table_that_we_fill() -> None:
    looked = ast.unparse(tree_of("vllm.entrypoints.serve.engine.serving"))
    assert "return self.models.lora_requests[request.model]" in looked


def test_adapters_on_cores_are_applied_by_functions_that_ours_replace() -> None:
    """The names by which vLLM's wrapper calls them, in the order of their arguments."""
    wrapper = tree_of("vllm.lora.punica_wrapper.punica_cpu")
    ours = {"bgmv_shrink", "bgmv_expand", "bgmv_expand_slice", "sgmv_shrink", "sgmv_expand", "sgmv_expand_slice"}  # fmt: skip
    taken = {
        alias.name
        for node in ast.walk(wrapper)
        if isinstance(node, ast.ImportFrom) and node.module == "vllm.lora.ops.torch_ops"
        for alias in node.names
    }
    assert taken == ours
    theirs = {
        node.name: [argument.arg for argument in node.args.args]
        for node in ast.walk(tree_of("vllm.lora.ops.torch_ops.lora_ops"))
        if isinstance(node, ast.FunctionDef)
    }
    meta = ["b_seq_start_loc", "seq_len_tensor", "lora_indices_tensor", "batches", "max_seq_length", "token_nums"]  # fmt: skip
    assert theirs["sgmv_shrink"][3:] == [*meta, "scaling"]
    assert theirs["sgmv_expand"][3:] == [*meta, "add_inputs"]
    assert theirs["sgmv_expand_slice"][3:] == [*meta, "slice_offset", "slice_size", "add_inputs"]
    assert theirs["bgmv_shrink"][3:] == ["lora_indices_tensor", "scaling"]
    assert theirs["bgmv_expand"][3:] == ["lora_indices_tensor", "add_inputs"]
    assert theirs["bgmv_expand_slice"][3:] == ["lora_indices_tensor", "slice_offset", "slice_size", "add_inputs"]  # fmt: skip
