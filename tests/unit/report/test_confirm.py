"""Which members of a front stay on it with fresh seeds; made by hand, so the answers are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.report.confirm import confirm, confirmation_text
from kdbench.report.overview import Overview, overview
from kdbench.seeds import FreshSeeds, Run
from tests.support.results import STUDY, make_study, result, spec
from tests.support.twins import broken


@pytest.fixture
def study(tmp_path: Path) -> Overview:
    """Complete: 0 (+77.1, width 16, 4.5 J), 1 (+90.0, 32, 7.0), 3 (+12.25, 64, 12.0)."""
    return overview(make_study(tmp_path), STUDY)


def fresh(
    number: int, recorded: float, width: int, joules: float, pcts: Sequence[float | None]
) -> FreshSeeds:
    runs = [
        broken(replace(spec(number), seed=seed))
        if pct is None
        else Run(spec=replace(spec(number), seed=seed), result=result(pct, width, joules))
        for seed, pct in enumerate(pcts, 1)
    ]
    first = result(recorded, width, joules)
    return FreshSeeds(number=number, recorded=first, runs=tuple(runs), changed={}, wall_s=1.0)


def test_a_member_that_nothing_beats_stays(study: Overview) -> None:
    found = confirm([fresh(0, 77.1, 16, 4.5, [80, 82]), fresh(3, 12.25, 64, 12, [13, 14])], study)
    assert (found.stay, found.beaten_by, found.unknown) == ((0, 3), {}, ())
    assert found.curse_pct == pytest.approx(((77.1 - 81) + (12.25 - 13.5)) / 2)
    assert found.spread_pct == pytest.approx(((2.0 + 0.5) / 2) ** 0.5)


def test_members_are_compared_by_their_fresh_seeds(study: Overview) -> None:
    """3 was recorded at +12.25 % and is at +85 %: trial 0 is cheaper and better."""
    found = confirm([fresh(0, 77.1, 16, 4.5, [80]), fresh(3, 12.25, 64, 12, [85])], study)
    assert (found.stay, found.beaten_by) == ((0,), {3: (0,)})
    assert found.spread_pct is None


def test_others_count_as_they_were_recorded(study: Overview) -> None:
    found = confirm([fresh(3, 12.25, 64, 12, [100])], study)
    assert found.beaten_by == {3: (0, 1)}


def test_a_trial_is_not_beaten_by_its_own_record(study: Overview) -> None:
    found = confirm([fresh(3, 12.25, 64, 12, [20])], study)
    assert found.stay == (3,)


def test_a_member_whose_seeds_all_broke_is_unknown(study: Overview) -> None:
    found = confirm([fresh(0, 77.1, 16, 4.5, [None, None]), fresh(3, 12.25, 64, 12, [13])], study)
    assert (found.stay, found.unknown) == ((3,), (0,))
    assert found.curse_pct == pytest.approx(12.25 - 13)


def test_nothing_known_is_no_figure(study: Overview) -> None:
    found = confirm([fresh(0, 77.1, 16, 4.5, [None])], study)
    assert (found.curse_pct, found.curse_low_pct, found.spread_pct) == (None, None, None)
    assert "cannot be told" in confirmation_text(found, 80)


def test_the_curse_has_an_interval_over_three_trials_or_more(study: Overview) -> None:
    two = [fresh(0, 77.1, 16, 4.5, [80.1]), fresh(3, 12.25, 64, 12, [14.25])]
    found = confirm([*two, fresh(1, 90, 32, 7, [94])], study)
    assert confirm(two, study).curse_low_pct is None
    assert found.curse_low_pct is not None
    assert found.curse_high_pct is not None
    assert -4 <= found.curse_low_pct < found.curse_pct < found.curse_high_pct <= -2  # type: ignore[operator]


def test_it_is_told_in_words(study: Overview) -> None:
    found = confirm([fresh(0, 77.1, 16, 4.5, [80, 82]), fresh(3, 12.25, 64, 12, [85, None])], study)
    assert confirmation_text(found, 80) == (
        "all 2 with 2 fresh seeds each\n"
        "\n"
        "stay              1 of 2: 0\n"
        "trial 3           does not: trial 0 beats it\n"
        "winner's curse    -38.3 points on average: recorded BD-rate less that of fresh\n"
        "                  seeds; spread over seeds 1.41 points\n"
    )
