from consilium.engine.absence import AROUND_S, LATE_S, UNKNOWN_S, Absence


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_is_what_the_last_start_took_less_what_has_passed() -> None:
    clock = Clock()
    absence = Absence(clock)
    absence.gone()
    assert absence.retry_after_s() == UNKNOWN_S
    clock.now += 60  # the first start is no measure: the models may have been downloaded in it
    absence.back(start_s=12.0)
    absence.gone()
    assert absence.retry_after_s() == 12 + AROUND_S
    clock.now += 6.5
    absence.gone()
    assert absence.retry_after_s() == 10
    clock.now += 30
    assert absence.retry_after_s() == LATE_S
    absence.back(start_s=12.0)
    assert absence.retry_after_s() == 37  # as it was measured from here
    absence.gone()
    clock.now += 7
    assert absence.retry_after_s() == 30
