"""bfloat16 read back, for tests of what writes it."""

import numpy as np


def from_bf16(bits):
    """Return bit patterns as float32 values, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
