"""What the sampler is told."""

import dataclasses
from typing import get_args

import pytest

from kdbench.config import Constraints, Objective
from kdbench.errors import MeterError
from kdbench.objectives import OBJECTIVES
from kdbench.search.objectives import broken, costs_of, objective_values, violations
from tests.support import search as stub
from tests.unit.search.specs import spec

RESULT = stub.result(spec(), energy_j_per_mpx=3.0)


def test_every_objective_that_a_study_may_name_is_here_and_no_other() -> None:
    assert set(OBJECTIVES) == set(get_args(Objective))


def test_values_come_in_the_order_of_the_study() -> None:
    kmac = RESULT.complexity.kmac_per_px
    assert objective_values(["kmac_per_px", "params"], RESULT) == [kmac, 1000 * kmac]
    assert objective_values(["params", "kmac_per_px"], RESULT) == [1000 * kmac, kmac]


def test_encode_and_decode_energy_sum_to_energy() -> None:
    total, encode, decode = objective_values(
        ["energy_j_per_mpx", "encode_j_per_mpx", "decode_j_per_mpx"], RESULT
    )
    assert total == encode + decode == 3.0


@pytest.mark.parametrize("name", ["energy_j_per_mpx", "encode_j_per_mpx", "decode_j_per_mpx"])
def test_an_energy_that_nobody_measured_is_an_error_and_never_a_zero(name: str) -> None:
    unmeasured = dataclasses.replace(RESULT, energy=None)
    with pytest.raises(MeterError, match=rf"objective {name} was not measured\n  fix: .*doctor"):
        objective_values(["params", name], unmeasured)


def test_decode_time_that_nobody_took_is_an_error() -> None:
    with pytest.raises(MeterError, match="decode_s_per_mpx was not measured"):
        objective_values(["decode_s_per_mpx"], RESULT)


LIMITS = {"params": 2000.0, "kmac_per_px": 10.0}


def test_a_constraint_says_which_share_of_its_limit_is_too_much() -> None:
    assert violations(LIMITS, {"params": 2500.0, "kmac_per_px": 5.0}) == {
        "params": 0.25,
        "kmac_per_px": -0.5,
        "overlap": 0.0,
        "unfinished": 0.0,
    }


def test_all_trials_have_the_same_constraints_in_the_same_order() -> None:
    known = violations(LIMITS, {"kmac_per_px": 1.0, "params": 1.0})
    unknown = violations(LIMITS, {}, overlaps=False, unfinished=0.5)
    assert list(known) == list(unknown) == ["kmac_per_px", "overlap", "params", "unfinished"]


def test_a_cost_that_is_not_known_yet_breaks_nothing() -> None:
    shares = violations(LIMITS, {"params": 1.0})
    assert shares["kmac_per_px"] == 0.0
    assert broken(LIMITS, {"params": 1.0}) == []


def test_every_cost_that_a_study_may_limit_is_read_from_a_result() -> None:
    limits = {f.name.removesuffix("_max") for f in dataclasses.fields(Constraints)}
    assert set(costs_of(RESULT)) == limits
    unmeasured = dataclasses.replace(RESULT, energy=None)
    assert set(costs_of(unmeasured)) == limits - {"energy_j_per_mpx"}


def test_the_limit_itself_is_allowed() -> None:
    assert violations(LIMITS, {"params": 2000.0})["params"] == 0.0
    assert broken(LIMITS, {"params": 2000.0}) == []


def test_what_is_broken_is_said_with_value_and_limit() -> None:
    assert broken(LIMITS, {"params": 2500.0, "kmac_per_px": 10.5}) == [
        "params is 2,500, above the limit of 2,000",
        "kmac_per_px is 10.5, above the limit of 10",
    ]
