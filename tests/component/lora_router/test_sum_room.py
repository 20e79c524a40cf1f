"""Which sums make room, on a real disk: those that stand last, and never for one that only a request names."""

from tests.component.lora_router.shelves import (
    assert_same,
    in_store,
    opened,
    refused,
)

from consilium.kernel.clock import FakeClock
from consilium.lora_router.identity import reference
from consilium.lora_router.incoming import Incoming, Limits
from consilium.lora_router.ports import Uses

ADAPTER_BYTES = 4096 + len('{"mark": "a"}')


async def test_sums_make_room_and_adapters_do_not(root, folder):
    limits = Limits(store_bytes=3 * ADAPTER_BYTES + 100)
    clock = FakeClock()
    async with opened(root, limits, clock) as library:
        core = await library.add(Incoming("core", folder("a")))
        parts = ((reference("core", core.sha), 0.5),)
        first = await library.add_sum("1" * 64, parts, folder("s"))
        clock.unix += 1
        second = await library.add_sum("2" * 64, parts, folder("t"))
        await library.count({reference("mix", first.sha): Uses(1, 0, 0, clock.unix + 5)})
        await library.add(Incoming("sport", folder("b")))
        assert library.find_sum("2" * 64) is None, "that one was used longest ago"
        assert library.find_sum("1" * 64) == first
        library.is_busy = lambda text: text == reference("mix", first.sha)
        error = await refused(library.add(Incoming("more", folder("d"))))
        assert error.code == "adapter_store_full"
        assert "lora_router.store_gib" in error.public()
        assert second.sha not in in_store(root)[0]
        assert_same(root, library)


async def test_sums_that_only_requests_name_have_a_budget_of_their_own(root, folder):
    limits = Limits(adhoc_bytes=10 * ADAPTER_BYTES, adhoc_sums=3)
    clock = FakeClock()
    async with opened(root, limits, clock) as library:
        core = await library.add(Incoming("core", folder("a")))

        def parts(weight):
            return ((reference("core", core.sha), weight),)

        async def make(number):
            clock.unix += 1
            return await library.add_sum(f"{number}" * 64, parts(number), folder(f"s{number}"))

        library.standing = lambda: frozenset({parts(0), parts(9)})
        stands = await make(0)
        for number in (1, 2, 3, 4, 5):
            await make(number)
        assert [library.find_sum(f"{n}" * 64) is None for n in (1, 2, 3, 4, 5)] == [True, True, False, False, False]  # fmt: skip
        assert library.find_sum("0" * 64) == stands, "it is older than all of them"
        library.is_busy = lambda text: text != reference("mix", stands.sha)
        error = await refused(make(6))
        assert error.code == "adapter_sums_full"
        assert "lora_router.adhoc_sums" in error.public()
        await make(9)  # one that stands needs no place among them
        assert library.find_sum("0" * 64) == stands
        assert_same(root, library)


async def test_one_of_them_never_has_one_that_stands_deleted(root, folder):
    limits = Limits(store_bytes=3 * ADAPTER_BYTES, adhoc_bytes=3 * ADAPTER_BYTES)
    async with opened(root, limits) as library:
        core = await library.add(Incoming("core", folder("a")))
        parts = ((reference("core", core.sha), 0.5),)
        library.standing = lambda: frozenset({parts})
        stands = await library.add_sum("1" * 64, parts, folder("s"))
        other = ((reference("core", core.sha), 0.7),)
        await library.add_sum("2" * 64, other, folder("t"))
        last = await library.add_sum("3" * 64, ((other[0][0], 0.8),), folder("u"))
        assert library.find_sum("1" * 64) == stands
        assert library.find_sum("2" * 64) is None
        library.is_busy = lambda text: text == reference("mix", last.sha)
        error = await refused(library.add_sum("4" * 64, ((other[0][0], 0.9),), folder("v")))
        assert error.code == "adapter_store_full"
        assert library.find_sum("1" * 64) == stands
        await library.add(Incoming("sport", folder("b")))  # an adapter is no cache
        assert library.find_sum("1" * 64) is None
