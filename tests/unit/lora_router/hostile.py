"""Broken and hostile adapters, each with the code of the rule that refuses it. Every maker takes an empty place and leaves an adapter there."""

import json
import os
import struct

import numpy as np
from tests.unit.lora_router import made

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"


def of_config(**over):
    return lambda folder: made.write(folder, **over)


def of_tensors(change, **over):
    """Return a maker that changes the tensors of a good adapter."""

    def make(folder):
        tensors = made.factors(made.modules())
        change(tensors)
        made.write(folder, tensors, **over)

    return make


def of_header(change):
    """Return a maker that changes header and bytes of a good file; `change` may return another header."""

    def make(folder):
        header, body = made.header_and_body(made.factors(made.modules()))
        made.write(folder, raw=made.joined(change(header) or header, body))

    return make


def of_file(change):
    """Return a maker that changes the bytes of a good file."""

    def make(folder):
        raw = made.joined(*made.header_and_body(made.factors(made.modules())))
        made.write(folder, raw=change(raw))

    return make


def beside(change):
    """Return a maker that does something to the folder of a good adapter."""

    def make(folder):
        change(made.write(folder))

    return make


def link_file(folder):
    os.rename(folder / TENSORS, folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder / TENSORS)


def link_config(folder):
    os.remove(folder / CONFIG)
    os.symlink("/etc/hostname", folder / CONFIG)


def link_folder(folder):
    os.rename(folder, folder.parent / "real")
    os.symlink(folder.parent / "real", folder)


def replace_by(name, make):
    def change(folder):
        os.remove(folder / name)
        make(folder / name)

    return beside(change)


def plain_file_for_folder(folder):
    folder.write_bytes(b"x")


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


def twice(header):
    raw = json.dumps(header)
    row = json.dumps(header[A])
    return (raw[:-1] + f', "{A}": {row}}}').encode()


def overlap(header):
    first, second = list(header)[1:3]
    size = header[second]["data_offsets"]
    header[second]["data_offsets"] = [size[0] - 4, size[1] - 4]
    del header[first]["dtype"]
    header[first]["dtype"] = "F32"


def gap(folder):
    header, body = made.header_and_body(made.factors(made.modules()))
    for name, row in header.items():
        if name != "__metadata__":
            row["data_offsets"] = [at + 4 for at in row["data_offsets"]]
    made.write(folder, raw=made.joined(header, bytes(4) + body))


def retype(dtype):
    def change(header):
        header[A]["dtype"] = dtype

    return of_header(change)


def put(key, value):
    def change(header):
        header[A][key] = value

    return of_header(change)


def renamed(old, new):
    def change(tensors):
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def added(name, shape=(8, 64)):
    def change(tensors):
        tensors[name] = np.ones(shape, np.float32)

    return change


def value(number, at=A):
    def change(tensors):
        tensors[at][0, 0] = number

    return change


def all_b(number):
    def change(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name][:] = number

    return change


def transpose(tensors):
    for name in tensors:
        tensors[name] = np.ascontiguousarray(tensors[name].T)


def fused_mix(folder):
    tensors = made.fused_experts() | made.factors(
        {"model.layers.0.mlp.experts.0.gate_proj": (64, 32)}
    )
    made.write(folder, tensors)


def fused_counts(folder):
    made.write(folder, made.fused_experts(experts=4) | _only(made.fused_experts(experts=2), ".1."))


def _only(tensors, part):
    return {name: values for name, values in tensors.items() if part in name}


FILES = {
    "nothing there": ("folder_missing", lambda _folder: None),
    "a file for a folder": ("not_a_folder", plain_file_for_folder),
    "a folder that is a link": ("folder_is_link", beside(link_folder)),
    "an empty folder": ("file_missing", lambda folder: folder.mkdir()),
    "no tensors": ("file_missing", beside(lambda folder: os.remove(folder / TENSORS))),
    "tensors by a link": ("file_is_link", beside(link_file)),
    "a configuration by a link out of the folder": ("file_is_link", beside(link_config)),
    "a link that leads nowhere": (
        "file_is_link",
        replace_by(TENSORS, lambda path: os.symlink("/gone", path)),
    ),
    "a hard link": (
        "file_is_hard_link",
        beside(lambda folder: os.link(folder / TENSORS, folder.parent / "other")),
    ),
    "a pipe": ("not_a_file", replace_by(TENSORS, os.mkfifo)),
    "a folder for a file": ("not_a_file", replace_by(CONFIG, os.mkdir)),
    "a pickle alone": (
        "pickle",
        beside(lambda folder: os.rename(folder / TENSORS, folder / "adapter_model.bin")),
    ),
    "a pickle beside it": (
        "pickle_beside",
        beside(lambda folder: (folder / "adapter_model.pt").write_bytes(b"\x80\x04.")),
    ),
    "a pickle called safetensors": (
        "header_too_large",
        of_file(lambda _raw: b"\x80\x04\x95" + b"\xff" * 200),
    ),
    "a Git LFS pointer": (
        "header_too_large",
        of_file(lambda _raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ),
    "new words for the vocabulary": (
        "vocabulary",
        beside(lambda folder: (folder / "new_embeddings.safetensors").write_bytes(b"")),
    ),
    "a huge configuration": ("file_too_large", of_config(told=b" " * (2 << 20))),
}

HEADERS = {
    "an empty file": ("header_missing", of_file(lambda _raw: b"")),
    "three bytes": ("header_missing", of_file(lambda raw: raw[:3])),
    "a header longer than the file": ("header_truncated", of_file(lambda raw: raw[:100])),
    "a header of 100 MB": (
        "header_too_large",
        of_file(lambda raw: struct.pack("<Q", 100_000_000) + raw[8:]),
    ),
    "the largest length there is": ("header_too_large", of_file(lambda raw: b"\xff" * 8 + raw[8:])),
    "cut off in the last tensor": ("offsets_past_end", of_file(lambda raw: raw[:-10])),
    "bytes after the end": ("file_too_long", of_file(lambda raw: raw + b"PK\x03\x04")),
    "a million tensors": (
        "tensors_too_many",
        of_header(
            lambda _h: (
                b"{"
                + b",".join(b'"%d":{"data_offsets":[0,0]}' % n for n in range(1_000_000))
                + b"}"
            )
        ),
    ),
    "no tensor": ("no_tensors", of_file(lambda _raw: made.joined({"__metadata__": {}}, b""))),
    "overlapping tensors": ("offsets_overlap", of_header(overlap)),
    "a gap before the first": ("offsets_gap", gap),
    "offsets past the end": ("offsets_past_end", put("data_offsets", [1 << 30, (1 << 30) + 2048])),
    "offsets the wrong way round": ("offsets_reversed", put("data_offsets", [2048, 0])),
    "offsets below nought": ("header_entry", put("data_offsets", [-8, 2040])),
    "offsets in words": ("header_entry", put("data_offsets", ["0", "2048"])),
    "a shape that is not its bytes": ("tensor_size", put("shape", [8, 65])),
    "a shape of enormous product": ("tensor_size", put("shape", [1 << 39, 1 << 39, 1 << 39])),
    "a shape of truths": ("header_entry", put("shape", [True, 64])),
    "one field more": ("header_entry", put("device", "cuda")),
    "a key twice": ("header_duplicate_key", of_header(twice)),
    "deep nesting": ("header_too_deep", of_header(lambda _header: nested(100_000))),
    "no JSON": ("header_not_json", of_header(lambda _header: b"{'a': 1}")),
    "not even a brace": ("header_not_json", of_header(lambda _header: b"[1, 2]")),
    "not UTF-8": ("header_not_utf8", of_header(lambda _header: b'{"\xff\xfe": 1}')),
    "NaN in the header": ("header_not_json", of_header(lambda _header: b'{"a": NaN}')),
    "notes that are no texts": (
        "header_entry",
        of_header(lambda header: header["__metadata__"].update(n=1)),
    ),
    "float8": ("dtype", retype("F8_E4M3")),
    "int8": ("dtype", retype("I8")),
    "bool": ("dtype", retype("BOOL")),
    "float64": ("dtype", retype("F64")),
}

CONFIGS = {
    "a configuration that is no JSON": ("config_not_json", of_config(told=b"r: 8")),
    "a configuration in UTF-16": (
        "config_not_utf8",
        of_config(told=json.dumps(made.config()).encode("utf-16")),
    ),
    "a list": ("config_not_json", of_config(told=b"[]")),
    "r twice": (
        "config_duplicate_key",
        of_config(told=json.dumps(made.config()).encode()[:-1] + b', "r": 64}'),
    ),
    "a deep configuration": ("config_too_deep", of_config(told=nested(100_000))),
    "NaN for alpha": ("config_not_json", of_config(lora_alpha=float("nan"))),
    "no r": ("config_key_missing", of_config(r=...)),
    "no target_modules": ("config_key_missing", of_config(target_modules=...)),
    "a key that nobody knows": ("key_unknown", of_config(use_magic=True)),
    "a scale that vLLM reads by another name": (
        "key_unknown",
        of_config(vllm_lora_scaling_factor=4.0),
    ),
    "another method": ("peft_type", of_config(peft_type="LOHA")),
    "the method as a list": ("peft_type", of_config(peft_type=["LORA"])),
    "for classification": ("task_type", of_config(task_type="SEQ_CLS")),
    "r = 0": ("rank_not_positive", of_config(r=0)),
    "r below nought": ("rank_not_positive", of_config(r=-8)),
    "r = 1.5": ("config_value", of_config(r=1.5)),
    "r = true": ("config_value", of_config(r=True)),
    "r huge": ("rank_beyond_engine", of_config(r=1 << 20)),
    "a huge rank in a pattern that nothing uses": (
        "rank_beyond_engine",
        of_config(rank_pattern={"no.such": 1024}),
    ),
    "r unlike the tensors": ("rank_differs", of_config(r=16)),
    "a pattern unlike the tensors": ("rank_differs", of_config(rank_pattern={"k_proj": 4})),
    "alpha 0": ("alpha_not_positive", of_config(lora_alpha=0)),
    "alpha below nought": ("alpha_not_positive", of_config(lora_alpha=-16)),
    "alpha 1e9": ("alpha_too_large", of_config(lora_alpha=1e9)),
    "alpha beyond floats": (
        "alpha_too_large",
        of_config(
            told=json.dumps(made.config())
            .replace('"lora_alpha": 16', '"lora_alpha": 1e999')
            .encode()
        ),
    ),
    "alpha as a text": ("config_value", of_config(lora_alpha="16")),
    "rsLoRA as a text": ("config_value", of_config(use_rslora="false")),
    "target_modules as a number": ("config_value", of_config(target_modules=7)),
    "patterns as a list": ("config_value", of_config(rank_pattern=["q_proj"])),
    "a catastrophic pattern": ("pattern_unsafe", of_config(rank_pattern={"(a+)+b": 8})),
    "another one": ("pattern_unsafe", of_config(alpha_pattern={"(.*.*)*x": 8})),
    "a pattern with three stars": ("pattern_unsafe", of_config(alpha_pattern={".*a.*b.*c": 8})),
    "many things that may be there or not": (
        "pattern_unsafe",
        of_config(alpha_pattern={"a?" * 40: 8}),
    ),
    "a backward reference": ("pattern_unsafe", of_config(alpha_pattern={r"(a)\1": 8})),
    "a pattern that looks ahead": ("pattern_unsafe", of_config(alpha_pattern={"(?=a)q_proj": 8})),
    "no pattern at all": ("pattern_unsafe", of_config(alpha_pattern={"(q_proj": 8})),
    "a thousand patterns": (
        "patterns_too_many",
        of_config(alpha_pattern={f"layers.{n}.q_proj": 8 for n in range(1000)}),
    ),
    "DoRA": ("dora", of_config(use_dora=True)),
    "biases": ("bias", of_config(bias="all")),
    "no bias at all": ("bias", of_config(bias=None)),
    "a bias of its own": ("lora_bias", of_config(lora_bias=True)),
    "whole modules": ("modules_to_save", of_config(modules_to_save=["lm_head"])),
    "single tokens": ("trainable_tokens", of_config(trainable_token_indices=[5])),
    "activated LoRA": ("alora", of_config(alora_invocation_tokens=[1, 2])),
    "layers twice": ("layer_replication", of_config(layer_replication=[[0, 2], [1, 2]])),
    "block-diagonal": ("bdlora", of_config(use_bdlora={"nblocks": 2})),
    "QALoRA": ("qalora", of_config(use_qalora=True)),
    "KaSA": ("kasa", of_config(kasa_config={"beta": 1e-4})),
    "Arrow": ("arrow", of_config(arrow_config={"top_k": 3})),
    "MonteCLoRA": ("monteclora", of_config(monteclora_config={"num_samples": 8})),
    "Megatron": ("megatron", of_config(megatron_config={"x": 1})),
    "the other way round": ("fan_in_fan_out", of_config(fan_in_fan_out=True)),
    "PiSSA": ("init_weights", of_config(init_lora_weights="pissa_niter_16")),
    "OLoRA": ("init_weights", of_config(init_lora_weights="olora")),
    "CorDA": ("init_weights", of_config(init_lora_weights="corda")),
    "LoftQ": ("init_weights", of_config(init_lora_weights="loftq")),
}

NAMES = {
    "no prefix": ("tensor_name", of_tensors(renamed("base_model.model.", ""))),
    "a prefix twice": (
        "tensor_name",
        of_tensors(renamed("base_model.model.", "base_model.model.base_model.model.")),
    ),
    "the name of the adapter inside": (
        "tensor_name",
        of_tensors(renamed("lora_A.weight", "lora_A.default.weight")),
    ),
    "a letter of another alphabet": ("tensor_name", of_tensors(renamed("self_attn", "self_аttn"))),
    "a line break in a name": ("tensor_name", of_tensors(renamed("self_attn", "self\n_attn"))),
    "a path in a name": ("tensor_name", of_tensors(added("../../etc/passwd"))),
    "a name of 300 characters": (
        "tensor_name",
        of_tensors(added(f"base_model.model.{'m' * 300}.lora_A.weight")),
    ),
    "A without B": ("tensor_unpaired", of_tensors(lambda tensors: tensors.pop(B))),
    "B without A": ("tensor_unpaired", of_tensors(lambda tensors: tensors.pop(A))),
    "DoRA that nobody told": ("dora", of_tensors(added(f"{Q}.lora_magnitude_vector", (64,)))),
    "a bias that nobody told": ("bias_tensor", of_tensors(added(f"{Q}.lora_B.bias", (64,)))),
    "an embedding": (
        "embedding",
        of_tensors(added("base_model.model.model.embed_tokens.lora_embedding_A")),
    ),
    "a whole embedding": (
        "embedding",
        of_tensors(added("base_model.model.model.embed_tokens.weight")),
    ),
    "the head": ("head", of_tensors(added("base_model.model.lm_head.lora_A.weight"))),
    "tokens": (
        "trainable_tokens",
        of_tensors(
            added("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")
        ),
    ),
    "another method's tensors": ("not_lora", of_tensors(added(f"{Q}.hada_w1_a"))),
    "transposed": ("transposed", of_tensors(transpose)),
    "A and B of other ranks": (
        "pair_differs",
        of_tensors(lambda tensors: tensors.update({B: tensors[B][:, :4].copy()})),
    ),
    "a factor in four dimensions": (
        "tensor_shape",
        of_tensors(lambda tensors: tensors.update({A: tensors[A].reshape(8, 64, 1, 1)})),
    ),
    "an empty factor": (
        "tensor_shape",
        of_tensors(lambda tensors: tensors.update({A: tensors[A][:0]})),
    ),
    "experts in both layouts": ("experts_mixed", fused_mix),
    "experts by two counts": ("experts_differ", fused_counts),
}

VALUES = {
    "NaN": ("not_finite", of_tensors(value(float("nan")))),
    "infinity": ("not_finite", of_tensors(value(float("inf"), B))),
    "minus infinity in bfloat16": ("not_finite", of_tensors(value(float("-inf")), dtype="BF16")),
    "NaN in float16": ("not_finite", of_tensors(value(float("nan")), dtype="F16")),
    "beyond bfloat16": ("overflow", of_tensors(value(3.4e38))),
    "beyond bfloat16 once scaled": ("overflow", of_tensors(value(3e38, B))),
    "all B zero": ("no_effect", of_tensors(all_b(0.0))),
    "denormals alone": ("no_effect", of_tensors(all_b(1e-40))),
    "a breath of nothing": ("no_effect", of_tensors(all_b(1e-9))),
    "a thousandfold explosion": ("too_strong", of_tensors(all_b(1e5))),
}
