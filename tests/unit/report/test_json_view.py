"""The JSON that others read is what docs/schemas/ says, and the schemas say enough to be wrong."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kdbench.bench import Comparison
from kdbench.report.json_view import bench_json, rerun_json, seeds_json, study_json, twin_json
from kdbench.report.overview import overview
from kdbench.report.tables import show_text
from kdbench.rerun import reproduction
from kdbench.store import Failure
from tests.support import twins
from tests.support.results import (
    OBJECTIVES,
    STUDY,
    TEACHER,
    add_stopped,
    make_study,
    result,
    spec,
)

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
NO_BD_RATE = Comparison(anchor="teacher:default", bd_rate=None, why_not="no common quality")


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def sent(document: dict[str, Any]) -> Any:
    """What a reader parses."""
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("with_anchor", [True, False])
def test_show_follows_its_schema(tmp_path: Path, with_anchor: bool) -> None:
    store = make_study(tmp_path, with_anchor=with_anchor)
    validator("show").validate(sent(study_json(overview(store, STUDY))))


def test_show_has_every_trial_with_its_reason(tmp_path: Path) -> None:
    document = sent(study_json(overview(make_study(tmp_path), STUDY)))
    trials = document["trials"]
    assert [t["state"] for t in trials] == [
        "complete",
        "complete",
        "infeasible",
        "complete",
        "failed",
        "running",
    ]
    assert [t["number"] for t in trials if t["on_front"]] == [0, 3]
    assert document["front"] == [3, 0]
    assert all(list(t["objectives"]) == OBJECTIVES for t in trials)
    assert trials[0]["objectives"] == pytest.approx(
        {"bd_rate_pct": 77.1, "kmac_per_px": 1.6, "energy_j_per_mpx": 4.5}
    )
    assert [t["reason"] is None for t in trials] == [True, True, False, True, False, True]
    assert trials[4]["fix"].startswith("lower `training.learning_rate`")
    assert document["anchor"]["complexity"]["params"] == 6_400_000


def test_points_are_by_ascending_bpp() -> None:
    backwards = replace(TEACHER, rd=replace(TEACHER.rd, points=TEACHER.rd.points[::-1]))
    points = bench_json(backwards, [], NO_BD_RATE)["rd"]
    assert [point["bpp"] for point in points] == [0.1, 0.25, 0.6]


@pytest.mark.parametrize(
    "figures",
    [TEACHER, replace(TEACHER, codec="jpeg", complexity=None, energy=None)],
    ids=["network", "classical"],
)
def test_bench_follows_its_schema(figures: Any) -> None:
    skipped = [("empty.png", "it is empty")]
    validator("bench").validate(sent(bench_json(figures, skipped, NO_BD_RATE)))


def without_source(document: dict[str, Any]) -> None:
    del document["trials"][0]["energy"]["source"]


def with_another_source(document: dict[str, Any]) -> None:
    document["trials"][0]["energy"]["encode"]["source"] = "measured"


def with_text_for_a_number(document: dict[str, Any]) -> None:
    document["trials"][0]["rd"][0]["bpp"] = "0.1"


def with_an_unknown_key(document: dict[str, Any]) -> None:
    document["trials"][0]["bdrate"] = 1.0


@pytest.mark.parametrize(
    "spoil", [without_source, with_another_source, with_text_for_a_number, with_an_unknown_key]
)
def test_the_schema_refuses(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    document = sent(study_json(overview(make_study(tmp_path), STUDY)))
    spoiled = copy.deepcopy(document)
    spoil(spoiled)
    assert validator("show").is_valid(document)
    assert not validator("show").is_valid(spoiled)


def test_rerun_says_what_is_the_same_and_what_changed() -> None:
    first = result(77.1, 16, 4.5)
    second = replace(first, hashes={"weights": "w16", "bitstreams": "other"})
    run = reproduction(3, first, second, {"teacher": "a"}, {"teacher": "b"})
    (sent_run,) = sent(rerun_json([run], STUDY))["reruns"]
    assert sent_run["number"] == 3
    assert sent_run["reproduced"] is False
    assert sent_run["same"] == {"weights": True, "bitstreams": False}
    assert sent_run["changed"] == {"teacher": {"then": "a", "now": "b"}}
    assert sent_run["expected"] is False
    assert sent_run["difference"]["pct"] == pytest.approx(0.0, abs=1e-9)


def test_twins_are_told_with_figures_verdicts_and_costs() -> None:
    document = sent(twin_json([twins.helped(), twins.untold()], STUDY))
    assert document["study"] == STUDY
    helped, untold = document["twins"]
    steps = helped["equal_steps"]
    assert steps["outcome"] == "helped"
    assert [rate["pct"] for rate in steps["by_seed"]] == pytest.approx([-2.6, -1.7, -1.1], abs=0.1)
    assert steps["student"]["mean_pct"] == pytest.approx(12.7)
    assert [run["seed"] for run in steps["twin"]["runs"]] == [0, 1, 2]
    assert helped["equal_seconds"]["twin"]["steps"] == 1346
    assert helped["training_s"] == pytest.approx({"student": 40.2, "twin": 31, "tuning": 62})
    assert [run["learning_rate"] for run in helped["tuning"]] == [0.0005, 0.001, 0.002]
    assert helped["verdict"]["equal_seconds"].startswith("within noise")
    assert untold["equal_steps"]["bd_rate"] is None
    assert untold["equal_steps"]["why_no_bd_rate"] == f"no seed has both: {twins.BROKEN}"
    assert (untold["equal_seconds"], untold["cache_s"]) == (None, None)
    assert untold["training_s"]["student"] is None


def test_a_stopped_trial_is_told_with_what_it_showed(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    add_stopped(store)
    document = sent(study_json(overview(store, STUDY)))
    validator("show").validate(document)
    told = document["trials"][6]
    assert (told["state"], [rung["step"] for rung in told["rungs"]]) == ("stopped", [80, 240])
    assert told["objectives"] == {"bd_rate_pct": None, "kmac_per_px": 1.8, "energy_j_per_mpx": 6.0}
    shown = show_text(overview(store, STUDY), all_trials=True, width=100)
    assert "1 stopped" in shown
    assert re.search(r"6  stopped +stopped after 240 of 800 steps", shown)


def test_a_refused_trial_is_told_with_its_costs(tmp_path: Path) -> None:
    store = make_study(tmp_path)
    store.begin_trial(STUDY, 6, spec(6))
    values = {"params": 180_000.0, "kmac_per_px": 1.8, "hopeless": 0.25}
    problem = "refused before training: trial 0 costs no more and is better than this one"
    refused = Failure(state="refused", problem=problem, fix="nothing to do", values=values)
    store.save_failure(STUDY, 6, refused)
    document = sent(study_json(overview(store, STUDY)))
    validator("show").validate(document)
    assert document["trials"][6]["state"] == "refused"
    assert document["trials"][6]["objectives"]["kmac_per_px"] == 1.8
    shown = show_text(overview(store, STUDY), all_trials=True, width=100)
    assert "1 refused" in shown
    assert re.search(r"6  refused +refused before training: trial 0", shown)


def test_fresh_seeds_are_told_with_those_that_broke(tmp_path: Path) -> None:
    study = overview(make_study(tmp_path), STUDY)
    document = sent(seeds_json([twins.fresh(), twins.elsewhere()], study))
    assert document["confirmation"]["n_seeds"] == 3
    assert sent(seeds_json([twins.fresh()], study))["confirmation"] is None
    lucky, moved = document["seeds"]
    assert lucky["winners_curse_pct"] == pytest.approx(9.0 - 12.9)
    assert [run["bd_rate"] is None for run in lucky["runs"]] == [False, False, True]
    assert lucky["runs"][2]["why_not"] == twins.BROKEN
    assert moved["spread_pct"] is None
    assert moved["changed"]["cpu"] == {"then": "AMD EPYC", "now": "Intel Xeon"}


def keys_of(document: Any) -> set[str]:
    if isinstance(document, dict):
        return set(document).union(*map(keys_of, document.values()))
    return set().union(*map(keys_of, document)) if isinstance(document, list) else set()


def test_the_documentation_names_every_key_of_twins_and_seeds(tmp_path: Path) -> None:
    text = (SCHEMAS.parent / "json.md").read_text()
    study = overview(make_study(tmp_path), STUDY)
    moved = replace(twins.elsewhere(), changed={})
    seeds = seeds_json([twins.fresh(), moved], study)
    told = keys_of(twin_json([twins.helped()], STUDY)) | keys_of(seeds)
    told -= set(seeds["confirmation"]["beaten_by"])  # numbers
    assert [key for key in sorted(told) if not re.search(rf"\b{key}\b", text)] == []


def test_the_documentation_names_every_key() -> None:
    """docs/json.md lists the keys of all documents; one that is new must be told."""
    text = (SCHEMAS.parent / "json.md").read_text()
    for name, part in (("show", "trial"), ("bench", ""), ("replay", "policy")):
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
        keys = [*schema["properties"], *schema["$defs"].get(part, {}).get("properties", {})]
        assert [key for key in keys if not re.search(rf"\b{key}\b", text)] == []
