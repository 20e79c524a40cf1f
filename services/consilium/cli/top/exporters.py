"""What stands between a cluster's cards and this page: an exporter that is down, a driver that does not answer, or no card at all.

Pure. Says it as `consilium doctor` does. Does not know what the cards do.
"""

from __future__ import annotations

from typing import Final

from consilium.cli.top.page import Labels, Page, rows

DRIVER: Final = "consilium_gpu_driver_up"
SAMPLE_AGE: Final = "consilium_gpu_sample_age_seconds"
PART_UP: Final = "consilium_part_up"
FRESH_S: Final = 5.0
"""Age of a sample that tells of no card, up to which its driver does answer."""
_PART: Final = "gpu_metrics"
_LOGS: Final = f"'consilium logs {_PART}' says why"


def silent_drivers(page: Page) -> tuple[str, ...]:
    """Return a sentence for each driver that does not answer its exporter, with the age of the last figures."""
    found = []
    for labels, value in page.get(DRIVER, {}).items():
        age_s = _age_s(page, labels)
        if value or (age_s is not None and age_s <= FRESH_S):
            continue
        figures = "no figure yet" if age_s is None else f"figures are {age_s:.0f} s old"
        found.append(f"the NVIDIA driver of a machine does not answer: {figures}")
    return tuple(dict.fromkeys(found))


def why_no_cards(page: Page, *, has_driver: bool | None) -> str:
    """Return why a page tells of no card, in words that follow "none".

    has_driver  whether an NVIDIA driver is on this machine, where the cluster runs; None = it runs elsewhere
    """
    parts = {labels.get("part", ""): value for labels, value in rows(page, PART_UP)}
    if parts.get(_PART, 1.0) == 0:
        return f"the exporter of their figures is down, {_LOGS}"
    if silent_drivers(page):
        return f"the NVIDIA driver does not answer, {_LOGS}"
    if page.get(DRIVER):
        return "the NVIDIA driver answers, and tells of no card"
    return _why_no_exporter(is_one_machine=bool(parts), has_driver=has_driver)


def _why_no_exporter(*, is_one_machine: bool, has_driver: bool | None) -> str:
    if has_driver:
        return "a driver is here and no exporter runs; 'consilium down' and 'up' start one"
    if has_driver is False:
        return "no NVIDIA driver is installed here"
    if is_one_machine:
        return "that machine had no NVIDIA driver when its cluster was started"
    return "no exporter there: no worker has cards, or gpu.metrics is off"


def _age_s(page: Page, labels: Labels) -> float | None:
    return page.get(SAMPLE_AGE, {}).get(labels)
