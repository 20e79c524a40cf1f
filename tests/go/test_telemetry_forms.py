"""How the expressions of dashboards and rules are made ready to be asked: pure rules of telemetry.py and quiet_time.py."""

import pytest
from tests.go import quiet_time, telemetry


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("up == 0", "up == bool  0"),
        ("a >= 1 and b<2", "a >= bool  1 and b< bool 2"),
        ('a{x!="1",y=~"<>"} > 3', 'a{x!="1",y=~"<>"} > bool  3'),
        ("a > bool 1", "a > bool 1"),
        ("a >= bool 1", "a >= bool 1"),
        ('label_replace(a, "b", "x>y", "c", "(.*)") != 1', 'label_replace(a, "b", "x>y", "c", "(.*)") != bool  1'),
        ("a > on (b) group_left () c", "a > bool  on (b) group_left () c"),
    ],
)  # fmt: skip
def test_an_alert_is_asked_without_its_limits(written, asked):
    assert telemetry.unlimited(written) == asked


def test_a_dashboard_is_filled_as_grafana_fills_it():
    written = 'rate(a{x=~"$x",y="${y}",z=~"[[z]]",w=~"${x:regex}"}[$__rate_interval])'
    filled = telemetry.filled(written, {"x": ["one", "two"], "y": ["a.b"], "z": ["c"]}, rate="9s")
    assert filled == r'rate(a{x=~"one|two",y="a\\.b",z=~"c",w=~"one|two"}[9s])'
    assert telemetry.plain(written) == 'rate(a{x=~".+",y=".+",z=~".+",w=~".+"}[5m])'


def test_a_quiet_time_goes_on_where_it_ended():
    types = {"a_total": [{"type": "counter"}], "b": [{"type": "gauge"}]}
    rows = [
        {"metric": {"__name__": "a_total"}, "values": [(100.0, "5"), (130.0, "7")]},
        {"metric": {"__name__": "b", "x": 'y"'}, "values": [(100.0, "1"), (130.0, "2")]},
    ]
    recording = quiet_time.Recording(rows, 100.0, 130.0, types)
    counter, gauge = quiet_time.series(recording, 60)
    assert counter == {"series": "a_total{}", "values": "5.0x1 7.0x1 9.0"}
    assert gauge == {"series": 'b{x="y\\""}', "values": "1x4"}


def test_the_longest_wait():
    assert quiet_time.longest_wait([{"for": "1h30m"}, {"for": "10m"}, {}]) == 5400
