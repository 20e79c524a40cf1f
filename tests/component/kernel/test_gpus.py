"""The one reader of cards, on a driver library and an nvidia-smi made for the test: what they say, and what happens when they say nothing."""

import pytest
from tests.real import nvml

from consilium.kernel import gpus
from consilium.kernel.gpus import Gpu

GIB = 2**30
LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { char old[16]; unsigned domain, bus, device, id, system; char bus_id[32]; } pci_t;

static int is(const char *mode) { return !strcmp(getenv("FAKE_DRIVER"), mode); }

int nvmlInitWithFlags(unsigned flags) {
  if (is("hangs")) for (;;) pause();
  if (is("breaks")) abort();
  return is("not loaded") ? DRIVER_NOT_LOADED : OK;
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strcpy(text, "580.65.06"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = is("no card") ? 0 : 4; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, long *card) { *card = index; return index == 1 ? GPU_IS_LOST : OK; }
int nvmlDeviceGetName(long card, char *text, unsigned size) {
  const char *names[] = {"NVIDIA GeForce RTX 4090", "", "NVIDIA GB10", "NVIDIA A100-SXM4-80GB"};
  strcpy(text, card < 10 ? names[card] : "NVIDIA A100-SXM4-80GB MIG 3g.40gb"); return OK;
}
int nvmlDeviceGetUUID(long card, char *text, unsigned size) {
  strcpy(text, card < 10 ? "GPU-0" : "MIG-0"); text[4] += card % 10; return OK;
}
int nvmlDeviceGetMemoryInfo(long card, memory_t *memory) {
  if (card == 2) return NOT_SUPPORTED;
  memory->total = (card < 10 ? 24ull : 40ull) << 30; memory->free = 20ull << 30; return OK;
}
int nvmlDeviceGetCudaComputeCapability(long card, int *major, int *minor) { *major = 8; *minor = 9; return OK; }
int nvmlDeviceGetPciInfo_v3(long card, pci_t *pci) { strcpy(pci->bus_id, "00000000:01:00.0"); return OK; }
int nvmlDeviceGetMigMode(long card, unsigned *now, unsigned *later) { *now = card == 3; return card == 0 ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetMaxMigDeviceCount(long card, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(long card, unsigned place, long *slice) { *slice = 10 + place; return place < 2 ? OK : 6; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder with a driver library that does as FAKE_DRIVER says."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "fake.c").write_text(LIBRARY)
    return nvml.build(folder, folder / "fake.c")


@pytest.fixture
def driver(library, monkeypatch):
    """Choose how the driver behaves."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("PATH", "/nonexistent")
    return lambda mode: monkeypatch.setenv("FAKE_DRIVER", mode)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put an nvidia-smi with this body on the path; NVML cannot be asked."""

    def put(body):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    monkeypatch.setattr(gpus.sys, "executable", "/nonexistent/python")
    return put


def test_nvml_tells_cards_and_slices_and_leaves_out_the_lost_one(driver):
    driver("works")
    seen = gpus.read()
    assert seen.why_none == ""
    assert seen.cards[0] == Gpu(
        0,
        "GPU-0",
        "NVIDIA GeForce RTX 4090",
        24 * GIB,
        20 * GIB,
        8.9,
        "580.65.06",
        mig=False,
        pci_bus_id="00000000:01:00.0",
    )
    assert [(card.index, card.uuid, card.total_bytes, card.mig) for card in seen.cards[1:]] == [
        (2, "GPU-2", 0, False),
        (3, "MIG-0", 40 * GIB, True),
        (3, "MIG-1", 40 * GIB, True),
    ]


def test_what_cuda_hides_is_left_out_when_asked(driver, monkeypatch):
    driver("works")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2,0")
    assert [card.index for card in gpus.read(visible_only=True).cards] == [2, 0]
    assert len(gpus.read().cards) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.read(visible_only=True) == ((), "CUDA_VISIBLE_DEVICES='' hides every card")


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("not loaded", "the NVIDIA driver says: Driver Not Loaded"),
        ("no card", "the NVIDIA driver shows no card"),
        ("breaks", "asking the NVIDIA driver failed"),
    ],
)
def test_no_card_has_a_reason(driver, mode, why):
    driver(mode)
    assert gpus.read() == ((), why)


def test_a_driver_that_hangs_costs_the_limit(driver):
    driver("hangs")
    assert gpus.read(limit_s=1.0) == ((), "the NVIDIA driver did not answer within 1 s")


def test_nvidia_smi_answers_where_nvml_cannot_be_asked(smi):
    smi(
        """case "$1" in *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;; esac
echo '0, GPU-aa, Tesla T4, 15360, 15000, 470.57.02, 00000000:00:1E.0, [N/A]'"""
    )
    assert [(card.name, card.compute_capability) for card in gpus.read().cards] == [
        ("Tesla T4", 0.0)
    ]


def test_nvidia_smi_without_cards_is_quoted(smi):
    smi("echo 'No devices were found'; exit 6")
    assert gpus.read() == ((), "nvidia-smi says: No devices were found")


def test_an_nvidia_smi_that_hangs_costs_the_limit(smi):
    smi("sleep 600")
    assert gpus.read(limit_s=0.5) == ((), "nvidia-smi did not answer within 0.5 s")
