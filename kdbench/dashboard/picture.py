"""A study at one moment, in memory: Optuna's trials, and what their folders add for the page.

The page reads trials as Optuna 4 wrote them. Constraints of Optuna 5 are therefore written a
second time in the old way, so that plots grey out what breaks a rule; notes, figures and artifacts
are attributes whose names optuna-dashboard 0.21 gives, and `tests/e2e/test_dashboard.py` looks at
what it makes of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from kdbench.dashboard.artifacts import Artifact
from kdbench.report.overview import Overview
from kdbench.search.attributes import DUPLICATE_OF
from kdbench.store import StoredTrial

CONSTRAINT = "constraints:"  # prefix of Optuna 5's attributes, one a rule
LEGACY_CONSTRAINTS = "constraints"  # the list that Optuna 4 wrote
QUEUED = "fixed_params"  # Optuna's attribute of trials that wait

SAME = "same_spec_as"  # attribute of a trial that repeats another one's values
STUDY_ID = 0  # the first of a storage in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Markdown of a study or trial.

    Attributes:
        version: Rises with every change of the text; a page that edits an older one is told.
    """

    text: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the page is shown.

    Attributes:
        study: Its trials' ids are their numbers.
        storage: Where it is, and nothing else.
        best: Numbers of the trials that nothing feasible beats, infeasible ones not among them.
        figures: Ids of our figures, in the order in which they are shown.
        artifacts: Of all trials, by their ids.
        problem: Why it could not be taken again; None while it is fresh.
    """

    study: optuna.Study
    storage: InMemoryStorage
    best: frozenset[int]
    figures: tuple[str, ...]
    artifacts: Mapping[str, Artifact]
    problem: str | None = None

    def spoiled_by(self, problem: str) -> "Picture":
        """The same, which says that it is not fresh."""
        return replace(self, problem=problem)


def of_trials(
    found: Overview,
    trials: Sequence[FrozenTrial],
    artifacts: Mapping[int, Sequence[Artifact]],
    fixed: Mapping[str, str],
    storage: InMemoryStorage,
) -> optuna.Study:
    """The study in `storage`: as the database has it, with what the folders know of each trial."""
    study = optuna.create_study(
        study_name=found.study,
        storage=storage,
        directions=["minimize"] * len(found.objectives),
    )
    study.set_metric_names(list(found.objectives))
    for key, value in fixed.items():
        study.set_user_attr(key, value)
    stored = {trial.number: trial for trial in found.trials}
    for trial in trials:
        known = stored.get(trial.number) or stored.get(trial.user_attrs.get(DUPLICATE_OF, -1))
        study.add_trial(_shown(trial, found, known, artifacts.get(trial.number, ())))
    return study


def best_of(study: optuna.Study) -> frozenset[int]:
    """Numbers of the trials that nothing beats, as Optuna 5 itself tells them."""
    return frozenset(trial.number for trial in study.best_trials)


def _shown(
    trial: FrozenTrial, found: Overview, stored: StoredTrial | None, artifacts: Sequence[Artifact]
) -> FrozenTrial:
    rules = {k: v for k, v in trial.system_attrs.items() if k.startswith(CONSTRAINT)}
    system: dict[str, Any] = dict(rules)
    if rules:
        system[LEGACY_CONSTRAINTS] = [float(value) for value in rules.values()]
    if QUEUED in trial.system_attrs:
        system[QUEUED] = trial.system_attrs[QUEUED]
    system |= dict(one.attribute() for one in artifacts)
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=_figures_of(trial, found, stored),
        system_attrs=system,
        intermediate_values={},
    )


def _figures_of(
    trial: FrozenTrial, found: Overview, stored: StoredTrial | None
) -> dict[str, str | float]:
    """Columns of the page's table; what nobody knows is not there."""
    known: dict[str, str | float | None] = {"state": state_of(trial, stored)}
    if DUPLICATE_OF in trial.user_attrs:
        known[SAME] = trial.user_attrs[DUPLICATE_OF]
    if stored is not None:
        known |= {"on_front": "yes" if stored.number in found.front else "no"}
        known |= stored.failure.values if stored.failure else {}
        known |= {"reason": stored.reason, "spec_hash": stored.spec.hash}
    result = None if stored is None else stored.result
    if result is not None:
        costs, rate, energy = result.complexity, result.bd_rate, result.energy
        known |= {
            "params": costs.params,
            "encoder_kmac_per_px": costs.encoder_kmac_per_px,
            "decoder_kmac_per_px": costs.decoder_kmac_per_px,
            "bd_rate_low_pct": None if rate is None else rate.low_pct,
            "bd_rate_high_pct": None if rate is None else rate.high_pct,
            "energy_source": None if energy is None else energy.source,
            "training_s": result.seconds.get("training"),
        }
    return {name: value for name, value in known.items() if value is not None}


def state_of(trial: FrozenTrial, stored: StoredTrial | None) -> str:
    """In kdbench's words, which tell apart what Optuna calls pruned."""
    if trial.state == TrialState.WAITING:
        return "queued"
    if trial.state == TrialState.FAIL and (stored is None or stored.state == "running"):
        return "interrupted"
    if stored is not None and trial.state.is_finished():
        return stored.state
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "infeasible"}
    return words.get(trial.state, trial.state.name.lower())


def write_note(study: optuna.Study, note: Note, number: int | None = None) -> None:
    """Leaves a note where optuna-dashboard looks for it; `save_note` would count versions anew."""
    place = "dashboard:" if number is None else f"dashboard:{number}:"
    storage, study_id = study._storage, study._study_id
    storage.set_study_system_attr(study_id, f"{place}note_ver", note.version)
    storage.set_study_system_attr(study_id, f"{place}note_str:0", note.text)
