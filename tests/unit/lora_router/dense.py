"""Adapters as the dense matrices that they add, for tests of sums."""

import numpy as np

from consilium.lora_router import adapter_files
from consilium.lora_router.factors import as_floats


def deltas(folder):
    """Return module -> scale * B @ A in float64, by the file's own configuration; of fused experts (experts, out, in)."""
    found = {}
    with adapter_files.opened(folder) as files:
        for pair in files.files.pairs:
            a, b = (
                as_floats(files.bytes_of(tensor), tensor.dtype, tensor.shape).astype(np.float64)
                for tensor in (pair.a, pair.b)
            )
            if pair.experts:
                each_a = a.reshape(pair.experts, -1, a.shape[1])
                each_b = b.reshape(b.shape[0], -1, pair.experts).transpose(2, 0, 1)
                found[pair.module] = pair.scale * (each_b @ each_a)
            else:
                found[pair.module] = pair.scale * (b @ a)
    return found


def dense_sum(*terms):
    wanted = {}
    for folder, weight in terms:
        for module, delta in deltas(folder).items():
            wanted[module] = wanted.get(module, 0) + weight * delta
    return wanted
