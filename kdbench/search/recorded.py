"""The finished trials of a study as a table, from its folders alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench import config
from kdbench.config import StudyConfig
from kdbench.errors import KdbenchError
from kdbench.records import Rung, TrialResult, TrialSpec
from kdbench.search.objectives import costs_of, objective_values, on_the_way
from kdbench.search.restore import Answers
from kdbench.store import Store, StoredTrial
from kdbench.tabular import Row, Shown, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A study as a table.

    Attributes:
        left_out: Trials that are no row since they have no result, by their state.
    """

    study: str
    table: Table
    left_out: Mapping[str, int]


def recorded(store: Store, study: str) -> Recording:
    """The table of what `study` has finished.

    What the teachers' outputs took is taken out of the trials that computed them and paid once by
    every search, the longest time of each teacher; so are the seconds that a trial waited for
    another one's measurement.

    Raises:
        KdbenchError: No such study, a list of codecs, or fewer than two finished trials.
    """
    stored = store.load_study(study)
    if "objectives" not in stored.settings:
        raise KdbenchError(
            f"study {study!r} measured codecs and has no trials",
            fix=f"`kdbench show --study {study}` prints its tables",
        )
    cfg = config.from_settings(stored.settings, f"study {study}")
    trials = store.trials(study)
    n_finished = sum(trial.result is not None for trial in trials)
    if n_finished < 2:
        raise KdbenchError(
            f"study {study!r} has {n_finished or 'no'} finished trial{'s' * (n_finished != 1)}, "
            "and a replay searches among several",
            fix=f"let `kdbench search --study {study}` finish some",
        )
    cache_s: dict[str | None, float] = {}
    rows = []
    for trial in trials:
        if trial.result is not None:
            rows.append(_row(cfg, trial, trial.result))
            teacher = trial.spec.distillation.teacher
            took_s = trial.result.seconds.get("cache", 0.0)
            cache_s[teacher] = max(cache_s.get(teacher, 0.0), took_s)
    table = Table(
        objectives=cfg.objectives,
        rows=tuple(rows),
        axes=cfg.space.parameters,
        setup_s=sum(cache_s.values()),
    )
    left_out = Counter(str(trial.state) for trial in trials if trial.result is None)
    return Recording(study=study, table=table, left_out=dict(left_out))


def _row(cfg: StudyConfig, trial: StoredTrial, result: TrialResult) -> Row:
    parts = dict(result.seconds)
    waiting_s, cache_s = parts.pop("waiting", 0.0), parts.get("cache", 0.0)
    own_s = sum(parts.values()) - cache_s
    busy = max(0.0, 1 - waiting_s / own_s) if own_s > 0 else 1.0
    rungs = tuple(
        Shown(
            share=rung.step / cfg.training.steps,
            seconds=max(0.0, rung.seconds - cache_s) * busy,
            values=tuple(on_the_way(cfg.objectives, rung.values)),
        )
        for rung in _ascending(trial.rungs)
    )
    last_s = rungs[-1].seconds if rungs else 0.0  # an earlier attempt may have been slower
    until = ("cost", "start", "energy") if any("_j_per" in n for n in cfg.objectives) else ("cost",)
    costs_s = sum(parts.get(name, 0.0) for name in until) * busy
    return Row(
        number=trial.number,
        params=suggested(cfg, trial.spec),
        objectives=tuple(objective_values(cfg.objectives, result)),
        seconds=max(own_s * busy, last_s),
        rungs=rungs,
        costs=costs_of(result),
        costs_s=min([costs_s, own_s * busy, *(rung.seconds for rung in rungs)]),
    )


def _ascending(rungs: tuple[Rung, ...]) -> list[Rung]:
    """Rungs whose seconds ascend: those of an earlier attempt have a clock of their own."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: rung.step):
        if kept and rung.seconds < kept[-1].seconds:
            kept = [each for each in kept if each.seconds <= rung.seconds]
        kept.append(rung)
    return kept


def suggested(cfg: StudyConfig, spec: TrialSpec) -> dict[str, Any]:
    """What a sampler suggested to make `spec`, by name.

    The space is walked as a trial walks it. What its teacher has is not in the folder, so it is
    asked as if it had everything; an answer that is not in the space then was never given.
    """
    answers = Answers(spec)
    cfg.space.sample(
        answers,
        plan=cfg.training,
        seed=cfg.seed,
        teacher_coordinates={str(spec.distillation.teacher): spec.architecture.coordinates},
        stands_on={},
    )
    known = cfg.space.parameters
    own = {name: known[name].own(value) for name, value in answers.params.items()}
    return {name: value for name, value in own.items() if value is not None}
