"""The replay meter."""

from kdbench.energy.replay import ReplayMeter


def test_values_come_in_order_and_begin_again() -> None:
    meter = ReplayMeter([1.0, 2.0])
    given = []
    for _ in range(3):
        meter.start()
        given.append(meter.stop())
    assert given == [1.0, 2.0, 1.0]


def test_a_replay_says_that_it_is_one() -> None:
    assert ReplayMeter().source == "replay"
    assert ReplayMeter([1.0]).detail == "1 fixed values"
