"""How a study stands, for people and for programs."""

from datetime import UTC, datetime
from typing import Any

from kdbench.records import SCHEMA, plain
from kdbench.report.text import table, wrapped
from kdbench.report.units import UNKNOWN, count, duration, figure
from kdbench.standing import RunningTrial, SlurmTask, Standing, WorkerStanding

ORDER = ("running", "queued", "infeasible", "stopped", "refused", "failed")
INDENT = 6


def standing_json(found: Standing) -> dict[str, Any]:
    """See docs/schemas/status.schema.json."""
    return {
        "study": found.study,
        "schema": SCHEMA,
        "origin": found.origin,
        "notes": list(found.notes),
        "trials": {"asked": found.asked, **found.n},
        "until": None if found.until_s is None else _when(found.until_s),
        "workers": [plain(worker) for worker in found.workers],
        "running": [plain(trial) for trial in found.running],
        "slurm": [plain(task) for task in found.slurm],
        "pace": None
        if found.pace is None
        else {
            **plain(found.pace),
            "n_working": found.n_working,
            "trials_per_hour": found.trials_per_hour,
            "left_s": found.left_s,
        },
    }


def standing_text(found: Standing, width: int) -> str:
    """As a page of text."""
    parts = [_head(found), _pace(found)]
    if found.workers:
        heads = ("worker", "host", "process", "job", "trial", "does", "heard of")
        rows = [_worker(worker) for worker in found.workers]
        parts.append(table(heads, rows, left=len(heads)))
    lost = [_lost(trial) for trial in found.running if trial.stale]
    parts += lost
    if found.slurm:
        parts.append(_slurm(found.slurm))
    parts += [wrapped("note:", note, width, indent=INDENT) for note in found.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _head(found: Standing) -> str:
    asked = "" if found.asked is None else f" of {found.asked}"
    others = [f"{n} {state}" for state in ORDER if (n := found.n.get(state))]
    line = f"study {found.study}: {found.n['complete']}{asked} trials complete"
    if others:
        line += f"; {', '.join(others)}"
    return line if found.until_s is None else f"{line}; begins none after {_when(found.until_s)}"


def _pace(found: Standing) -> str:
    if found.n_left == 0:
        return ""
    n = found.n_working
    workers = f"{n} worker{'' if n == 1 else 's'}"
    if found.pace is None:
        return f"{workers}; no trial is complete yet, so nothing tells how long it will take"
    basis = (
        f"from {count(found.pace.n_trials)} complete trials, each "
        f"{duration(found.pace.worker_s_per_trial)} of a worker"
    )
    if not n:
        return f"nobody works on it ({basis})"
    hourly = f"{workers}, {figure(found.trials_per_hour)} trials an hour"
    left = "" if found.left_s is None else f", about {duration(found.left_s)} left"
    return f"{hourly}{left} (estimated {basis})"


def _worker(worker: WorkerStanding) -> tuple[str, ...]:
    steps = f" {worker.step}/{worker.n_steps}" if worker.n_steps else ""
    does = worker.stage or ("a trial" if worker.trial is not None else UNKNOWN)
    mood = "" if worker.mood in ("works", "done") else f"{worker.mood}; last: "
    return (
        str(worker.index),
        worker.host or UNKNOWN,
        UNKNOWN if worker.pid is None else str(worker.pid),
        worker.job or UNKNOWN,
        UNKNOWN if worker.trial is None else str(worker.trial),
        f"{mood}{does}{steps}",
        UNKNOWN if worker.heard_s is None else f"{duration(worker.heard_s)} ago",
    )


def _lost(trial: RunningTrial) -> str:
    of = UNKNOWN if trial.worker is None else f"worker {trial.worker} on {trial.host}"
    return (
        f"trial {trial.number} of {of} has been silent for {duration(trial.heard_s)}: it is tried "
        "again when a worker asks for its next trial"
    )


def _slurm(tasks: tuple[SlurmTask, ...]) -> str:
    said: dict[str, int] = {}
    for task in tasks:
        what = task.state.lower() + (f" ({task.reason})" if task.state == "PENDING" else "")
        said[what] = said.get(what, 0) + 1
    jobs = ", ".join(dict.fromkeys(task.job.partition("_")[0] for task in tasks))
    return f"Slurm: job {jobs}: " + ", ".join(f"{n} {what}" for what, n in said.items())
