"""What nvidia-smi prints, and which cards CUDA_VISIBLE_DEVICES shows."""

import pytest

from consilium.kernel.gpus import Gpu, parse_smi, visible

MIB = 2**20
FIRST, SECOND = Gpu(0, "GPU-aa11", "RTX 4090"), Gpu(1, "GPU-bb22", "RTX 3090")
SLICE = Gpu(2, "MIG-cc33", "A100 MIG 1g.10gb", mig=True)
CARDS = (FIRST, SECOND, SLICE)


def test_nvidia_smi_is_read():
    text = (
        "0, GPU-aa, NVIDIA GeForce RTX 4090, 24564, 23000, 580.65.06, 00000000:01:00.0, [N/A], 8.9\n"
        "1, GPU-bb, NVIDIA GB10, [N/A], [N/A], 580.65.06, 0000000F:01:00.0, [N/A], 12.1\n"
        "2, GPU-cc, NVIDIA A100, 81920, 81000, 580.65.06, 00000000:02:00.0, Enabled, 8.0\n"
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver\n"
    )
    assert parse_smi(text) == (
        Gpu(
            0,
            "GPU-aa",
            "NVIDIA GeForce RTX 4090",
            24564 * MIB,
            23000 * MIB,
            8.9,
            "580.65.06",
            mig=False,
            pci_bus_id="00000000:01:00.0",
        ),
        Gpu(1, "GPU-bb", "NVIDIA GB10", 0, 0, 12.1, "580.65.06", pci_bus_id="0000000F:01:00.0"),
        Gpu(
            2,
            "GPU-cc",
            "NVIDIA A100",
            81920 * MIB,
            81000 * MIB,
            8.0,
            "580.65.06",
            mig=True,
            pci_bus_id="00000000:02:00.0",
        ),
    )
    assert parse_smi("") == ()


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, CARDS),
        ("", ()),
        ("-1", ()),
        ("1", (SECOND,)),
        ("1, 0", (SECOND, FIRST)),
        ("0,7,1", (FIRST,)),
        ("0,0,1", (FIRST,)),
        ("GPU-bb", (SECOND,)),
        ("MIG-cc33", (SLICE,)),
        ("all", ()),
    ],
)
def test_visible_devices_are_those_that_cuda_would_show(named, seen):
    assert visible(CARDS, named) == seen
