"""What the other trials of a study tell one of them: what they showed, found and cost."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.records import TrialSpec
from kdbench.search.attributes import COSTS, DUPLICATE_OF, RUNGS, SPEC_HASH


def shown_by_others(trial: optuna.Trial, step: int) -> list[dict[str, float]]:
    """Costs and values of every other spec that has been at a rung, its latest attempt."""
    found: dict[str, dict[str, float]] = {}
    for other in trial.study.get_trials(deepcopy=False):
        shown = other.user_attrs.get(RUNGS, {}).get(str(step))
        if shown is not None:
            found[other.user_attrs[SPEC_HASH]] = shown
    found.pop(trial.user_attrs[SPEC_HASH], None)
    return list(found.values())


def found_by_others(trial: optuna.Trial) -> dict[int, dict[str, float]]:
    """Objectives and costs of every complete trial, each spec once, by number."""
    study = trial.study
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {
        other.number: {
            **other.user_attrs.get(COSTS, {}),
            **dict(zip(study.metric_names or (), other.values, strict=True)),
        }
        for other in done
        if DUPLICATE_OF not in other.user_attrs
    }


def twins_of(trial: optuna.Trial, spec: TrialSpec) -> list[FrozenTrial]:
    """Trials of the same spec, first one first."""
    others = trial.study.get_trials(deepcopy=False)
    return [
        other
        for other in others
        if other.number != trial.number and other.user_attrs.get(SPEC_HASH) == spec.hash
    ]
