"""Pages of a cluster with two executors on three cards over ten seconds, and the frames of them.

python -m tests.unit.cli.top.readings        writes the frames that the test compares with
"""

from pathlib import Path

from consilium.cli.top.figures import WANTED, Figures, Series
from consilium.cli.top.frame import About, frame
from consilium.cli.top.page import parse

FRAMES = Path(__file__).parent / "frames"
WIDTHS = (80, 40)
GIB = 2**30
BOUNDS = ("0.05", "0.1", "0.25", "0.5", "1.0", "+Inf")
ABOUT = About("http://127.0.0.1:8000", "14:03:22", hint="q ends")


def page(
    *,
    made: int,
    first: tuple[int, ...],
    overloaded: int,
    joules: float,
    more: str = "",
    with_cards: bool = True,
) -> str:
    """Return one page. `first` are the observations up to each bound of BOUNDS."""
    cards = "".join(
        f'consilium_gpu_info{{uuid="GPU-{at}",index="{at}",name="NVIDIA GeForce RTX 3090"}} 1\n'
        f'consilium_gpu_up{{uuid="GPU-{at}"}} {int(at < 2)}\n'
        f'consilium_gpu_memory_total_bytes{{uuid="GPU-{at}"}} {24 * GIB}\n'
        f'consilium_gpu_memory_used_bytes{{uuid="GPU-{at}"}} {(20 - at) * GIB}\n'
        f'consilium_gpu_utilization_ratio{{uuid="GPU-{at}"}} 0.9{at}\n'
        f'consilium_gpu_power_watts{{uuid="GPU-{at}"}} {300 - at * 100}\n'
        f'consilium_gpu_power_limit_watts{{uuid="GPU-{at}"}} 350\n'
        f'consilium_gpu_temperature_celsius{{uuid="GPU-{at}",sensor="core"}} {86 - at * 20}\n'
        f'consilium_gpu_throttled{{uuid="GPU-{at}",reason="software_power_cap"}} {int(at == 0)}\n'
        f'consilium_gpu_energy_joules_total{{uuid="GPU-{at}"}} {9e6 + joules * (3 - at)}\n'
        for at in range(3)
    )
    held = "".join(
        f'consilium_engine_gpu_info{{executor="{name}",replica="0",uuid="GPU-{at}"}} 1\n'
        for name, at in (("core", 0), ("core", 1), ("large", 1))
    )
    buckets = "".join(
        f'consilium_gateway_first_token_seconds_bucket{{executor="core",route="chat",le="{bound}"}} {count}\n'
        for bound, count in zip(BOUNDS, first, strict=True)
    )
    return (
        f'vllm:generation_tokens_total{{executor="core",replica="0"}} {made}\n'
        f'vllm:prompt_tokens_total{{executor="core",replica="0"}} {made * 10}\n'
        'vllm:num_requests_running{executor="core",replica="0"} 6\n'
        'vllm:num_requests_waiting{executor="core",replica="0"} 2\n'
        'vllm:kv_cache_usage_perc{executor="core",replica="0"} 0.42\n'
        f'consilium_gateway_tokens_total{{executor="core",kind="completion"}} {made // 2}\n'
        f'consilium_gateway_tokens_total{{executor="large",kind="completion"}} {made // 4}\n'
        f'consilium_gateway_requests_total{{route="chat",code="200",executor="core"}} {first[-1]}\n'
        f'consilium_gateway_requests_total{{route="chat",code="503",executor="core"}} {overloaded}\n'
        f'consilium_gateway_requests_total{{route="chat",code="499",executor="core"}} {overloaded}\n'
        f'consilium_gateway_requests_total{{route="metrics",code="403",executor="none"}} {made}\n'
        'consilium_gateway_inflight_requests{executor="core"} 8\n'
        'consilium_gateway_inflight_requests{executor="large"} 1\n'
        'consilium_gateway_waiting_requests{executor="core"} 1\n'
        "consilium_gateway_redis_up 1\n"
        'consilium_engine_up{executor="core"} 1\nconsilium_engine_up{executor="large"} 0\n'
        'consilium_part_up{part="gateway"} 1\nconsilium_part_up{part="memory"} 0\n'
        + buckets
        + (
            (cards + held + 'consilium_gpu_electricity_price{currency="EUR"} 0.3\n')
            if with_cards
            else ""
        )
        + more
    )


def figures(*, with_cards: bool = True, more: str = "") -> Figures:
    """Return the figures of the readings."""
    series = Series(60.0)
    for at, made, first, overloaded, joules in (
        (100.0, 1000, (1, 2, 3, 4, 5, 5), 1, 0.0),
        (103.0, 1400, (1, 5, 9, 10, 11, 11), 2, 300.0),
        (107.0, 2400, (1, 9, 15, 16, 17, 17), 4, 800.0),
    ):
        told = page(
            made=made, first=first, overloaded=overloaded, joules=joules, with_cards=with_cards
        )
        series.take(parse(told, WANTED), at)
    after = page(
        made=2820,
        first=(1, 12, 21, 23, 25, 25),
        overloaded=4,
        joules=1000,
        more=more,
        with_cards=with_cards,
    )
    return series.take(parse(after, WANTED), 110.0)


def drawn(width: int) -> str:
    """Return the frame as plain text."""
    return frame(figures(), ABOUT, width).plain + "\n"


if __name__ == "__main__":
    FRAMES.mkdir(exist_ok=True)
    for columns in WIDTHS:
        (FRAMES / f"{columns}.txt").write_text(drawn(columns), encoding="utf-8")
