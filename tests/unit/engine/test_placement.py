"""Bundles, bookings and cores."""

from hypothesis import given
from hypothesis import strategies as st

from consilium.engine import placement
from consilium.engine.placement import Want


def test_in_a_node_one_bundle_holds_all_cards():
    assert placement.bundles(ranks=4, nodes=1, gpu=True, cpus_per_node=1.0) == placement.Bundles(
        ({"CPU": 1.0, "GPU": 4.0},), "PACK"
    )


def test_across_nodes_each_node_has_one_bundle():
    found = placement.bundles(ranks=4, nodes=2, gpu=True, cpus_per_node=0.5)
    assert found == placement.Bundles(
        ({"CPU": 0.5, "GPU": 2.0}, {"CPU": 0.5, "GPU": 2.0}), "STRICT_SPREAD"
    )
    assert found.bundles[0] is not found.bundles[1]


def test_on_cpu_no_card_is_booked():
    assert placement.bundles(ranks=2, nodes=1, gpu=False, cpus_per_node=0.25).bundles == (
        {"CPU": 0.25},
    )


def test_small_machines_book_fractions():
    assert placement.booked_cpus(node_cpus=2, engines_on_node=1, ranks_per_node=1) == 1.0
    assert placement.booked_cpus(node_cpus=2, engines_on_node=3, ranks_per_node=2) == 0.33
    assert placement.booked_cpus(node_cpus=64, engines_on_node=1, ranks_per_node=2) == 2.0
    assert placement.booked_cpus(node_cpus=0, engines_on_node=1, ranks_per_node=1) == 0.01


@given(st.floats(0, 256), st.integers(1, 64), st.integers(1, 16))
def test_bookings_leave_half_of_the_node(cpus, engines, ranks):
    booked = placement.booked_cpus(node_cpus=cpus, engines_on_node=engines, ranks_per_node=ranks)
    assert booked == 0.01 or booked * engines <= cpus / 2 + 1e-9  # hundredths have no exact floats


def test_core_groups():
    assert placement.core_groups((0, 1), 2) == ((0,), (1,))
    assert placement.core_groups((0, 1, 2, 3, 4, 5, 6, 7), 2) == ((0, 1, 2), (3, 4, 5)), (
        "one core is kept for the front-ends"
    )
    assert placement.core_groups((0, 1, 2, 3), 2, per_group=2) == ((0, 1), (2, 3))
    assert placement.core_groups((0, 1), 3) == ((0,), (1,), (0,)), "too few cores are shared"
    assert placement.core_groups((), 3) == ()
    assert placement.bind_string(((0, 1), (2, 3))) == "0,1|2,3"


@given(st.integers(1, 128), st.integers(1, 40), st.none() | st.integers(1, 140))
def test_every_rank_has_cores_and_shares_only_when_it_must(cores, groups, per_group):
    ids = tuple(range(cores))
    found = placement.core_groups(ids, groups, per_group)
    assert len(found) == groups
    assert all(
        group and set(group) <= set(ids) and len(set(group)) == len(group) for group in found
    )
    used = [core for group in found for core in group]
    if (per_group or 1) * groups <= cores:
        assert len(used) == len(set(used))


def test_room_for_all():
    assert placement.unplaced([2], [Want("a", 2, 1, 1)]) is None
    assert placement.unplaced([2, 2], [Want("small", 2, 1, 1), Want("large", 1, 1, 2)]) is None, (
        "the large one is placed first"
    )
    assert placement.unplaced([2, 2], [Want("core", 1, 2, 2)]) is None
    assert placement.unplaced([3, 1], [Want("core", 1, 2, 2)]) == Want("core", 1, 2, 2)
    assert placement.unplaced([1, 1], [Want("core", 1, 1, 2)]) == Want("core", 1, 1, 2)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 8)), max_size=5),
)
def test_what_is_placed_never_needs_more_than_there_is(free, shapes):
    wants = [Want(str(i), *shape) for i, shape in enumerate(shapes)]
    if placement.unplaced(free, wants) is None:
        assert sum(w.copies * w.nodes * w.per_node for w in wants) <= sum(free)
