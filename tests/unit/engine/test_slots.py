"""Who has to leave memory and slots: rules without tasks or an engine, on a clock of their own."""

from consilium.engine.slots import HALF_S, Fetch, Load, Slots


class Book:
    """Slots whose moves end at once."""

    def __init__(self, places, ram_places, **sizes):
        self.slots = Slots(places, ram_places)
        for name, size_bytes in sizes.items():
            self.slots.tell(name, placement="ssd", size_bytes=size_bytes)
        self.now, self.in_slots, self.in_ram, self.fetched = 0.0, set(), set(), []

    def use(self, *names, every_s=0.1):
        for name in names:
            self.now += every_s
            ticket = self.slots.ask(name, self.now)
            while not (held := self.slots.admit(self.now)):
                self._move()
            assert held == [ticket]
            self.slots.release(ticket, self.now)

    def _move(self):
        book = self.slots
        move = book.next_load(self.now) or book.next_fetch(self.now)
        assert move is not None, "nothing can be done for the call that waits"
        book.began(move, self.now)
        if isinstance(move, Fetch):
            self.fetched.append(move.reference)
            self.in_ram = self.in_ram - set(move.victims) | {move.reference}
            self.in_slots -= set(move.victims)
        if isinstance(move, Load):
            self.in_slots = self.in_slots - {move.victim} | {move.reference}
        book.observe(self.in_slots, self.in_ram, self.now)
        book.landed(move)


def test_a_sweep_over_adapters_that_are_used_once_leaves_what_is_used_often():
    book = Book(2, 4)
    book.use(*["hot", "warm"] * 5)
    book.use(*[f"cold{n}" for n in range(40)])
    assert {"hot", "warm"} <= book.in_ram
    book.fetched.clear()
    book.use("hot", "warm")
    assert book.fetched == []


def test_of_two_used_equally_often_the_one_used_longer_ago_leaves():
    book = Book(1, 2)
    book.use("first", "second", "third")
    assert book.in_ram == {"second", "third"}


def test_what_was_used_often_long_ago_leaves_before_what_is_used_now():
    book = Book(1, 2)
    book.use(*["past"] * 8)
    book.use("now", "now", every_s=4 * HALF_S)
    book.use("next")
    assert book.in_ram == {"now", "next"}


def test_a_newcomer_that_comes_again_and_again_stays_although_it_was_pushed_out():
    book = Book(1, 2)
    book.use(*["hot"] * 3, *["warm"] * 3)
    book.use(*["new", "newer"] * 6)
    assert book.in_ram == {"new", "newer"}


def test_of_two_used_equally_the_one_that_is_dearer_to_read_again_stays():
    book = Book(1, 3, large=2**30, small=2**20)
    book.use("large", "small", "other", "next")
    assert book.in_ram == {"large", "other", "next"}


def test_nothing_is_left_of_adapters_that_are_gone():
    book = Book(1, 2, sum1=10)
    ticket = book.slots.ask("sum1", book.now)
    while not book.slots.admit(book.now):
        book._move()
    book.slots.failed("sum1", "its disk is silent", book.now + 5, cause="disk_silent")
    book.slots.let_go.add("sum1")
    book.slots.wanted["sum1"] = book.now + 60
    book.slots.forget("sum1")
    book.slots.release(ticket, book.now)
    slots = book.slots
    left = (slots._uses, slots.last_used, slots._sizes, slots._known, slots.wanted)
    left += (slots.resting, slots.reasons, slots.causes, slots.let_go, slots.in_use)
    assert not any("sum1" in each for each in left)
