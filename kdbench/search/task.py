"""The objective: one Optuna trial from its first question to what is told."""

import math
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError, QualityGapError, StoreError, TargetError
from kdbench.files import disk_errors
from kdbench.records import Bench, Progress, Rung, TrialResult, TrialSpec, content_hash
from kdbench.search.attributes import (
    BY,
    COSTS,
    DUPLICATE_OF,
    INTERRUPTED,
    PROBLEM,
    RUNGS,
    SPEC_HASH,
)
from kdbench.search.budget import is_overdrawn
from kdbench.search.dead import who
from kdbench.search.gate import TrialGate
from kdbench.search.ground import Ground, bench
from kdbench.search.interrupt import Interrupt
from kdbench.search.objectives import HOPELESS, costs_of, objective_values, violations
from kdbench.search.others import found_by_others, shown_by_others, twins_of
from kdbench.search.patience import DATABASE_ERRORS
from kdbench.search.prospects import Hopeless
from kdbench.search.reporter import Reporter
from kdbench.search.turn import Turn, TurnLost
from kdbench.search.upload import Uploader
from kdbench.store import Failure, Store, TrialFolder, load_rungs

AGAIN = "run the same command again: this spec is in the queue, and nothing else is lost"
Gate = Callable[[Rung], bool]
Report = Callable[[Progress], None]
Run = Callable[[TrialSpec, Bench, Gate, Path, Report], TrialResult]


class TrialFailed(Exception):  # noqa: N818  # what happened, told to Optuna as FAIL
    """A trial without a result; its folder says why, and the study goes on.

    Attributes:
        unexpected: Whether it is no problem that a user can solve.
    """

    def __init__(self, problem: str, fix: str, *, unexpected: bool) -> None:
        super().__init__(problem)
        self.problem, self.fix, self.unexpected = problem, fix, unexpected


class TwinRuns(Exception):  # noqa: N818  # likewise
    """Another worker trains this very spec just now."""


@dataclass(slots=True, kw_only=True)
class Objective:
    """What a worker lets Optuna optimise.

    A spec that has been tried is not trained again: its values are told once more, and the budget
    counts them once. One that runs just now is left to whoever runs it.

    Attributes:
        asking: Held by the caller until the spec is known, so that no two workers ask at once.
        uploader: Of a worker whose root holds copies only.
        fetch: Brings a trial's files here that another machine uploaded.
        number: Of the last trial.
    """

    cfg: StudyConfig
    ground: Ground
    store: Store
    run: Run
    worker: int
    interrupt: Interrupt
    asking: Turn
    report: Reporter
    uploader: Uploader | None = None
    fetch: Callable[[FrozenTrial], object] = lambda _: None
    number: int | None = None

    def __call__(self, trial: optuna.Trial) -> list[float]:
        """The objectives of one trial.

        Raises:
            TrialPruned: It is infeasible, or others did better at a rung.
            TrialFailed: It broke.
            TwinRuns: Another worker is at it.
            TurnLost: Others asked at the same time, and the budget is spent.
            KeyboardInterrupt: Somebody wants us to stop.
            StoreError: Nothing can be kept any more; likewise what the database raises.
        """
        self.number = trial.number
        trial.set_user_attr(BY, who(self.worker, self.store))
        spec = self._sample(trial)
        trial.set_user_attr(SPEC_HASH, spec.hash)
        twins = self._alone(trial, spec)
        if (values := self._known(trial, twins)) is not None:
            return values
        try:
            with disk_errors():
                return self._whole(trial, spec, twins)
        except StoreError:
            trial.set_user_attr(INTERRUPTED, True)  # its spec is queued again
            raise

    def _alone(self, trial: optuna.Trial, spec: TrialSpec) -> list[FrozenTrial]:
        """The twins of a trial, once it is sure that nobody asked at the same time; ends our turn.

        Who loses his turn while he asks takes another one and looks again: a turn that had to last
        from the first look at the budget to here would end in nothing wherever connections are cut
        more often than that.
        """
        try:
            twins = twins_of(trial, spec)
            while not self.asking.is_held():
                self.interrupt.check()
                self.asking.wait()
                if is_overdrawn(trial.study):
                    raise TurnLost
                twins = twins_of(trial, spec)
        except (KeyboardInterrupt, TurnLost):
            trial.set_user_attr(INTERRUPTED, True)  # its spec is queued again
            raise
        self.asking.release()
        return twins

    def _whole(self, trial: optuna.Trial, spec: TrialSpec, twins: list[FrozenTrial]) -> list[float]:
        """From its folder to its objectives; uploaded then, whatever came of it."""
        folder = self.store.begin_trial(self.cfg.name, trial.number, spec)
        self._inherit(folder, twins)
        self.report.begin(trial.number, "start")
        try:
            values = self._train(trial, spec, folder, self._gate(trial, twins))
        except (optuna.TrialPruned, TrialFailed, KeyboardInterrupt):
            self._upload(trial, folder)
            raise
        self._upload(trial, folder)
        return values

    def _upload(self, trial: optuna.Trial, folder: TrialFolder) -> None:
        if self.uploader is not None:
            self.uploader.trial(trial, folder)

    def _sample(self, trial: optuna.Trial) -> TrialSpec:
        """Its seed is the study's: students differ in what was suggested and in nothing else."""
        spec = self.cfg.space.sample(
            trial,
            plan=self.cfg.training,
            seed=self.cfg.seed,
            teacher_coordinates=self.ground.teacher_coordinates,
            stands_on={},
        )
        return replace(spec, stands_on=self.ground.stands_on(spec.distillation.teacher))

    def _known(self, trial: optuna.Trial, twins: list[FrozenTrial]) -> list[float] | None:
        """What a twin found, told again; None if this spec has to be trained."""
        for twin in twins:
            if twin.state in (TrialState.COMPLETE, TrialState.PRUNED):
                trial.set_user_attr(DUPLICATE_OF, twin.number)
                _set_constraints(trial, twin.constraints, twin.user_attrs.get(COSTS))
                if twin.state == TrialState.PRUNED:
                    raise optuna.TrialPruned(f"the spec of trial {twin.number}")
                return list(twin.values)
            if (kept := self._kept(twin)) is not None:
                trial.set_user_attr(DUPLICATE_OF, twin.number)
                _set_constraints(trial, self._shares(costs_of(kept)), costs_of(kept))
                self.store.trial(self.cfg.name, twin.number).forget_checkpoints()
                return objective_values(self.cfg.objectives, kept)
        earlier = [twin for twin in twins if twin.number < trial.number]
        running = [twin.number for twin in earlier if twin.state == TrialState.RUNNING]
        if running:
            trial.set_user_attr(DUPLICATE_OF, running[0])
            raise TwinRuns
        return None

    def _kept(self, twin: FrozenTrial) -> TrialResult | None:
        """The result of a trial that was kept and, its process dying, never told."""
        if twin.state != TrialState.FAIL:
            return None
        self.fetch(twin)
        if not self.store.trial(self.cfg.name, twin.number).result.is_file():
            return None
        return self.store.load_trial(self.cfg.name, twin.number).result

    def _inherit(self, folder: TrialFolder, twins: list[FrozenTrial]) -> None:
        """Take over the checkpoints of earlier attempts at the same spec, of a model the latest."""
        for twin in reversed(twins):
            earlier = self.store.trial(self.cfg.name, twin.number)
            if twin.state == TrialState.FAIL and earlier.path != folder.path:
                for checkpoint in earlier.checkpoints:
                    ours = folder.path / checkpoint.name
                    if not ours.exists():
                        checkpoint.replace(ours)

    def _train(
        self, trial: optuna.Trial, spec: TrialSpec, folder: TrialFolder, gate: TrialGate
    ) -> list[float]:
        try:
            with self.interrupt.allowed(), disk_errors():
                result = self.run(spec, self._bench, gate, folder.path, self.report)
            if gate.rungs and not load_rungs(folder):  # all were an earlier attempt's
                gate.keep(gate.rungs)
            values = objective_values(self.cfg.objectives, result)
            content_hash([values, result])  # refuses NaN and infinity
        except KeyboardInterrupt:
            self._interrupted(trial)
            raise
        except TargetError as why:  # what it has trained waits in its checkpoint
            self._interrupted(trial, f"{why.problem}; {why.fix}")
            raise
        except (StoreError, *DATABASE_ERRORS):  # no fault of this spec
            with suppress(StoreError):  # a disk that is full may not hold even that
                self._save_failure("failed", INTERRUPTED, AGAIN, {})
            raise
        except Exception as why:  # a trial may break; the study must not
            self._without_result(trial, gate, why)
        self.report.begin(trial.number, "told")
        self._require_ours(trial)
        self.store.save_result(self.cfg.name, trial.number, result)
        _set_constraints(trial, self._shares(costs_of(result)), costs_of(result))
        return values

    def _require_ours(self, trial: optuna.Trial) -> None:
        """Raises TrialFailed where others gave the trial up while this process was paused.

        Another worker has its spec by then, and a second result of it would count twice.
        """
        now = trial.study.get_trials(deepcopy=False)[trial.number]
        if now.state != TrialState.RUNNING:
            why = "given up while its worker was paused"
            self._save_failure("failed", why, "nothing to do: its spec is tried again", {})
            raise TrialFailed(why, "nothing to do", unexpected=False)

    @property
    def _bench(self) -> Bench:
        """Of a trial that asks at every rung, as no later training of its spec does."""
        ladder, n_steps = self.cfg.ladder, self.cfg.training.steps
        rungs = () if ladder is None else ladder.steps(n_steps)
        return replace(bench(self.cfg, self.ground, self.store), rungs=rungs)

    def _gate(self, trial: optuna.Trial, twins: list[FrozenTrial]) -> TrialGate:
        """Asks the other trials, and keeps what this one shows for them."""

        def keep(rungs: tuple[Rung, ...]) -> None:
            self.store.save_rungs(self.cfg.name, trial.number, rungs)
            trial.set_user_attr(RUNGS, {str(rung.step): rung.values for rung in rungs})

        attempts = [self.store.trial(self.cfg.name, twin.number) for twin in twins]
        earlier = [load_rungs(attempt) for attempt in attempts]
        return TrialGate(
            limits=self.cfg.constraints.limits,
            objectives=self.cfg.objectives,
            ladder=self.cfg.ladder,
            others=lambda step: shown_by_others(trial, step),
            finished=(lambda: found_by_others(trial)) if self.cfg.cost_first else None,
            keep=keep,
            rungs=max(earlier, key=len, default=()),
        )

    def _without_result(self, trial: optuna.Trial, gate: TrialGate, why: Exception) -> NoReturn:
        if gate.stopped_at is not None:
            self._stopped(trial, gate, gate.stopped_at)
        if gate.hopeless is not None:
            self._refused(trial, gate, gate.hopeless)
        if gate.refusals:
            rules = ", ".join(f"{name}_max" for name in gate.limits)
            fix = f"loosen {rules} in the study's constraints, or narrow its space"
            self._infeasible(trial, gate, "; ".join(gate.refusals), fix, overlaps=True)
        if isinstance(why, QualityGapError):
            self._infeasible(trial, gate, why.problem, why.fix, overlaps=False)
        if isinstance(why, KdbenchError):
            failed = TrialFailed(why.problem, why.fix, unexpected=False)
        else:
            text = "".join(traceback.format_exception(why))
            failed = TrialFailed(
                f"{type(why).__name__}: {why}",
                f"report this, it is a fault of kdbench unless memory ran out:\n{text}",
                unexpected=True,
            )
        self._save_failure("failed", failed.problem, failed.fix, gate.costs)
        trial.set_user_attr(PROBLEM, failed.problem)
        raise failed from why

    def _stopped(self, trial: optuna.Trial, gate: TrialGate, rung: Rung) -> NoReturn:
        n_steps = self.cfg.training.steps
        problem = (
            f"stopped after {rung.step} of {n_steps} steps: of {gate.n_there} trials that came so "
            "far others did better"
        )
        self._save_failure("stopped", problem, "nothing to do, the search goes on", rung.values)
        self.store.trial(self.cfg.name, trial.number).forget_checkpoints()
        left = 1 - rung.step / n_steps
        _set_constraints(trial, self._shares(gate.costs, unfinished=left), gate.costs)
        raise optuna.TrialPruned(problem)

    def _refused(self, trial: optuna.Trial, gate: TrialGate, why: Hopeless) -> NoReturn:
        at_best = ", ".join(f"{name} {bound:,.4g}" for name, bound in why.bounds.items())
        problem = (
            f"refused before training: trial {gate.beaten_by} costs no more and is better than "
            f"this one could plausibly be, {at_best}"
        )
        values = {**gate.costs, HOPELESS: why.share}
        self._save_failure("refused", problem, "nothing to do, the search goes on", values)
        _set_constraints(trial, self._shares(gate.costs, hopeless=why.share), gate.costs)
        raise optuna.TrialPruned(problem)

    def _shares(
        self,
        costs: Mapping[str, float],
        *,
        overlaps: bool = True,
        unfinished: float = 0.0,
        hopeless: float = 0.0,
    ) -> dict[str, float]:
        """What breaks a rule, by how much; the same keys of every trial of the study."""
        return violations(
            self.cfg.constraints.limits,
            costs,
            overlaps=overlaps,
            unfinished=unfinished,
            hopeless=hopeless if self.cfg.cost_first else None,
        )

    def _infeasible(
        self, trial: optuna.Trial, gate: TrialGate, problem: str, fix: str, *, overlaps: bool
    ) -> NoReturn:
        self._save_failure("infeasible", problem, fix, gate.costs)
        _set_constraints(trial, self._shares(gate.costs, overlaps=overlaps), gate.costs)
        raise optuna.TrialPruned(problem)

    def _interrupted(self, trial: optuna.Trial, fix: str = AGAIN) -> None:
        self._save_failure("failed", INTERRUPTED, fix, {})
        trial.set_user_attr(INTERRUPTED, True)

    def _save_failure(
        self,
        state: Literal["stopped", "refused", "infeasible", "failed"],
        problem: str,
        fix: str,
        costs: Mapping[str, float],
    ) -> None:
        assert self.number is not None
        failure = Failure(
            state=state,
            problem=problem,
            fix=fix,
            values={name: cost for name, cost in costs.items() if math.isfinite(cost)},
        )
        self.store.save_failure(self.cfg.name, self.number, failure)


def _set_constraints(
    trial: optuna.Trial, shares: Mapping[str, float], costs: Mapping[str, float] | None
) -> None:
    """Once, at the very end: a constraint cannot be set again in Optuna."""
    if costs is not None:
        trial.set_user_attr(COSTS, dict(costs))
    for key, share in shares.items():
        trial.set_constraint(key, share)
