"""When a study ends: complete trials, asks, time."""

import time
from dataclasses import dataclass
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.records import plain
from kdbench.search.attributes import BUDGET, DUPLICATE_OF, INTERRUPTED, SPEC_HASH
from kdbench.search.grid import is_exhausted
from kdbench.search.objectives import HOPELESS, UNFINISHED

ASKS_PER_TRIAL = 4  # a study whose every suggestion is infeasible or broken ends

_BEGAN_S, _BEGAN = time.time(), time.monotonic()

Verdict = Literal["ask", "wait", "complete", "asks", "timeout", "exhausted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When a study ends.

    Attributes:
        trials: Complete trials.
        until_s: No trial begins after it [s since 1970]; None: no limit.
        asks_per_trial: Trials begun for each one asked for at which it gives up; 1 where what is
            tried is listed.
    """

    trials: int
    until_s: float | None = None
    asks_per_trial: int = ASKS_PER_TRIAL

    def verdict(
        self, trials: list[FrozenTrial], now_s: float, *, exhausted: bool = False
    ) -> Verdict:
        """Whether a worker may ask for a trial now, must wait for others, or is done.

        Args:
            trials: Of the study, all of them.
            now_s: The time [s since 1970].
            exhausted: Whether the sampler has nothing to suggest beyond what is queued or tried.
        """
        complete = len(complete_specs(trials))
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        if complete >= self.trials:
            return "complete"
        if self.until_s is not None and now_s >= self.until_s:
            return "timeout"
        if exhausted and not any(trial.state == TrialState.WAITING for trial in trials):
            return "wait" if running else "exhausted"
        if self._is_through(trials):
            return "wait" if running else "asks"
        return "wait" if complete + running >= self.trials else "ask"

    def _is_through(self, trials: list[FrozenTrial]) -> bool:
        """Whether as many trials were begun as may be; of listed ones, whether none is queued."""
        if self.asks_per_trial == 1:
            return not any(trial.state == TrialState.WAITING for trial in trials)
        return n_asked(trials) >= self.asks_per_trial * self.trials


def set_budget(study: optuna.Study, budget: Budget) -> None:
    """Tell all workers, also those on other machines."""
    study.set_user_attr(BUDGET, plain(budget))


def now_s() -> float:
    """The time [s since 1970], by the clock when this process began: later jumps are not seen."""
    return _BEGAN_S + time.monotonic() - _BEGAN


def verdict(study: optuna.Study) -> Verdict:
    """What the budget says to a worker now."""
    budget, trials = Budget(**study.user_attrs[BUDGET]), study.get_trials(deepcopy=False)
    exhausted = is_exhausted(study.sampler, trials)
    return budget.verdict(trials, now_s(), exhausted=exhausted)


def is_overdrawn(study: optuna.Study) -> bool:
    """Whether more may become complete than was asked for."""
    budget, trials = Budget(**study.user_attrs[BUDGET]), study.get_trials(deepcopy=False)
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    return len(complete_specs(trials)) + running > budget.trials


def complete_specs(trials: list[FrozenTrial]) -> set[str]:
    """Hashes of the specs that are complete: a spec that came up twice counts once."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return {trial.user_attrs.get(SPEC_HASH, str(trial.number)) for trial in done}


def n_complete(study: optuna.Study) -> int:
    """Complete trials."""
    return len(complete_specs(study.get_trials(deepcopy=False)))


def n_asked(trials: list[FrozenTrial]) -> int:
    """Trials that were begun, and came to nothing or to a result.

    Not counted: interrupted ones, those whose process died and that were tried again, those left to
    a twin that ran, those that the ladder stopped.
    """
    again = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    return sum(
        INTERRUPTED not in trial.user_attrs
        and trial.number not in again
        and not (trial.state == TrialState.FAIL and DUPLICATE_OF in trial.user_attrs)
        and not is_stopped(trial)
        for trial in begun
    )


def is_stopped(trial: FrozenTrial) -> bool:
    """Whether the ladder stopped it; not of another one's spec, which cost nothing."""
    return trial.constraints.get(UNFINISHED, 0.0) > 0 and DUPLICATE_OF not in trial.user_attrs


def is_refused(trial: FrozenTrial) -> bool:
    """Whether its costs left it no hope of the front; likewise."""
    return trial.constraints.get(HOPELESS, 0.0) > 0 and DUPLICATE_OF not in trial.user_attrs
