"""The arithmetic of adapters on cores, against plain products."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_each_row_gets_its_own_adapter_and_a_row_without_one_none(
    packed: bool, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consilium.engine.backends import vllm_cpu_lora

    monkeypatch.setattr(vllm_cpu_lora, "SMALL", small)

    draw = torch.Generator().manual_seed(1)
    slots = torch.tensor([-1, 2, 0, -1, 2, 1])
    x = torch.randn(6, 8, generator=draw)
    a, b = torch.randn(3, 4, 8, generator=draw), torch.randn(3, 5, 4, generator=draw)
    a[2] *= 100  # the last slot shows where it should not
    low, out = torch.full((6, 4), 7.0), torch.randn(6, 9, generator=draw)
    before = out.clone()
    vllm_cpu_lora.shrink(x, a[:, None] if packed else a, low, slots, 0.5)
    vllm_cpu_lora.expand(low, b[:, None] if packed else b, out, slots, offset=3)
    for row, slot in enumerate(slots.tolist()):
        wanted = before[row].clone()
        if slot >= 0:
            wanted[3:8] += b[slot] @ (0.5 * (a[slot] @ x[row]))
        torch.testing.assert_close(out[row], wanted)


def test_the_calls_of_the_wrapper_are_understood() -> None:
    from consilium.engine.backends.vllm_cpu_lora import OURS

    x, a, b = torch.ones(3, 2), torch.ones(2, 1, 2), torch.ones(2, 4, 1)
    runs = (None, torch.tensor([2, 1]), torch.tensor([1, -1]), 2, 2, 3)
    low, out = torch.zeros(3, 1), torch.zeros(3, 4)
    OURS["sgmv_shrink"](x, a, low, *runs, 1.0)
    assert low.flatten().tolist() == [2.0, 2.0, 0.0]
    OURS["sgmv_expand_slice"](low, b[:, :2], out, *runs, 1, 2, True)
    assert out.tolist() == [[0, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]
    OURS["sgmv_expand"](low, b, out, *runs, False)
    assert out.tolist() == [[2] * 4, [2] * 4, [0] * 4]
    OURS["bgmv_shrink"](x, a, low, torch.tensor([-1, 0, 1]), 2.0)
    assert low.flatten().tolist() == [0.0, 4.0, 4.0]
    OURS["bgmv_expand"](low, b, out, torch.tensor([-1, 0, 1]), add_inputs=True)
    assert out[1].tolist() == [6.0] * 4
