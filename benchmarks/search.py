"""What a search has found after so many CPU-seconds: kdbench against what people do otherwise.

    python -m benchmarks.search --ours OURS.jsonl --noise NOISE.jsonl      half a minute

`benchmarks.table` makes both tables. Searches are replayed on them (`kdbench.search.replay`),
`SEEDS` of each kind, on the students that both tables have. All costs count: the cache of the
teacher's outputs and the anchor's curve once, then start, training, looks and evaluation of every
trial. The kinds differ in one lever each:

    script            Optuna's TPE or NSGA-II (population of 50) as they come; students from noise,
                      each trained to its end, teacher live and trained through
    + cache           the same from noise, in kdbench's loop: cached teacher, bf16
    + start           the script's loop, kdbench's start
    + start, cache    both: kdbench without a ladder
    kdbench, eta n    and with one
    kdbench, diagonal     without one, uniform widths first, as the study `kd_pareto` begins
    grid              the paper's: uniform widths, each once, narrowest first, in the script's way;
    grid, ours        in kdbench's

Hypervolume is that of (quality, log kMAC/px of encoder and decoder) below one corner for all, a
tenth beyond the worst of both tables, as a share of what all students of both tables have. Quality
is the loss on validation crops, mean over the levels, and then BD-rate against the anchor, where a
student without one counts as nothing and a script without any leaves nothing to reach.
Intervals: 95 %, bootstrap over search seeds.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

from benchmarks.publish import add_out, markdown, publish
from benchmarks.table import AXES, load_rows
from kdbench.fronts import hypervolume
from kdbench.search.replay import simulate
from kdbench.tabular import Policy, Row, Search, Shown, Table

SEEDS = 20
MARGIN = 0.1
N_RESAMPLES = 1000
COST = "kmac_per_px"
Quality = Literal["bd_rate_pct", "validation_loss"]
Found = Mapping[str, Any]
Trace = list[tuple[float, float]]  # (CPU seconds, share of the hypervolume), one a finished trial


def quality_of(row: Found, quality: Quality) -> float | None:
    """BD-rate [%], or the mean of the levels' losses [bit/px]."""
    if quality == "validation_loss":
        return fmean(row["validation_losses"])
    return None if row["bd_rate_pct"] is None else float(row["bd_rate_pct"])


class Volume:
    """Hypervolume below one corner, as a share of what all rows have."""

    def __init__(self, rows: Sequence[Found], quality: Quality) -> None:
        self._quality: Quality = quality
        points = [point for row in rows if (point := self._point(row)) is not None]
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        self._corner = list(high + MARGIN * (high - low))
        self._whole = hypervolume(points, self._corner)

    def _point(self, row: Found) -> list[float] | None:
        found = quality_of(row, self._quality)
        return None if found is None else [found, math.log(row[COST])]

    def share(self, rows: Sequence[Found]) -> float:
        """Of the whole; rows without the quality add nothing."""
        points = [point for row in rows if (point := self._point(row)) is not None]
        return hypervolume(points, self._corner) / self._whole if points else 0.0


def seconds_of(row: Found, *, naive_step_s: float | None) -> float:
    """CPU seconds of a whole trial; with a naive loop's step instead of kdbench's where given."""
    parts = row["seconds"]
    loop = parts["training"] if naive_step_s is None else naive_step_s * row["steps"]
    return float(parts["start"] + loop + parts["evaluation"])


def as_table(
    rows: Sequence[Found], *, naive: Mapping[tuple[float, ...], float] | None, setup_s: float
) -> Table:
    """What `replay` searches: losses and costs; `naive` has a step's seconds by student."""
    return Table(
        objectives=("validation_loss", COST),
        setup_s=setup_s,
        rows=tuple(
            Row(
                number=i,
                params=dict(zip(AXES, row["params_of"], strict=True)),
                objectives=(fmean(row["validation_losses"]), row[COST]),
                seconds=seconds_of(
                    row, naive_step_s=None if naive is None else naive[tuple(row["params_of"])]
                ),
                rungs=shown(row) if naive is None else (),
            )
            for i, row in enumerate(rows)
        ),
    )


def shown(row: Found) -> tuple[Shown, ...]:
    """What a ladder sees of a row; every look so far is paid for."""
    look_s = row["seconds"]["looks"] / len(row["rungs"]) / len(row["validation_losses"])
    return tuple(
        Shown(
            share=rung["step"] / row["steps"],
            seconds=rung["cpu_s"] + (i + 1) * look_s,
            values=(rung["losses"][len(rung["losses"]) // 2], row[COST]),
        )
        for i, rung in enumerate(row["rungs"])
    )


def trace(search: Search, rows: Sequence[Found], volume: Volume) -> Trace:
    """What the search had after each finished trial."""
    had: list[Found] = []
    found = []
    for place, at in zip(search.begun, search.ended_s, strict=True):
        if place not in search.stopped:
            had.append(rows[place])
            found.append((at, volume.share(had)))
    return found


def uniform(rows: Sequence[Found]) -> list[int]:
    """Places of uniform widths, narrowest first; of each the first learning rate in the table."""
    first: dict[float, int] = {}
    for i, row in enumerate(rows):
        encoder, decoder, _ = row["params_of"]
        if encoder == decoder:
            first.setdefault(encoder, i)
    return [i for _, i in sorted(first.items())]


def grid(rows: Sequence[Found], table: Table, volume: Volume) -> Trace:
    """`uniform` and nothing else."""
    clock, had, found = table.setup_s, [], []
    for i in uniform(rows):
        clock += table.rows[i].seconds
        had.append(rows[i])
        found.append((clock, volume.share(had)))
    return found


def seconds_to(share: float, found: Trace) -> float:
    """CPU seconds until the search had this share; infinity if never."""
    return next((at for at, has in found if has >= share - 1e-9), math.inf)


def interval(values: Sequence[float]) -> list[float]:
    """95 % of the median, bootstrap; infinite where half of the draws never came."""
    draws = np.random.default_rng(0).choice(values, (N_RESAMPLES, len(values)))
    ordered = np.sort(draws, axis=1)[:, (len(values) - 1) // 2]
    return [float(x) for x in np.quantile(ordered, [0.025, 0.975], method="inverted_cdf")]


def kinds(
    ours: Sequence[Found], noise: Sequence[Found], setup: Mapping[str, float], etas: Sequence[int]
) -> dict[str, tuple[Sequence[Found], Table, Policy]]:
    """Each kind of search: whose students, at what price, by which policy."""
    naive = {tuple(row["params_of"]): float(row["naive_step_s"]) for row in noise}
    without, with_cache = setup["anchor"], setup["anchor"] + setup["cache"]
    script = as_table(noise, naive=naive, setup_s=without)
    cached = as_table(noise, naive=None, setup_s=with_cache)
    started = as_table(ours, naive=naive, setup_s=without)
    both = as_table(ours, naive=None, setup_s=with_cache)
    tpe = Policy(sampler="tpe")
    ladders = {f"kdbench, eta {eta}": (ours, both, Policy(sampler="tpe", eta=eta)) for eta in etas}
    return {
        "script, TPE": (noise, script, tpe),
        "script, NSGA-II": (noise, script, Policy(sampler="nsga2")),
        "+ cache": (noise, cached, tpe),
        "+ start": (ours, started, tpe),
        "+ start, cache": (ours, both, tpe),
        "kdbench, diagonal": (ours, both, Policy(sampler="tpe", first=tuple(uniform(ours)))),
        **ladders,
        "random, start, cache": (ours, both, Policy(sampler="random")),
    }


def figures(
    ours: Sequence[Found],
    noise: Sequence[Found],
    setup: Mapping[str, float],
    quality: Quality,
    etas: Sequence[int],
) -> list[dict[str, Any]]:
    """One row a kind: its end, and when it had what the script has at its end."""
    volume = Volume([*ours, *noise], quality)
    traces: dict[str, list[Trace]] = {}
    trial_s: dict[str, float] = {}
    for name, (rows, table, policy) in kinds(ours, noise, setup, etas).items():
        trial_s[name] = median(row.seconds for row in table.rows)
        traces[name] = [trace(simulate(table, policy, seed), rows, volume) for seed in range(SEEDS)]
        if policy == Policy(sampler="tpe") and name in ("script, TPE", "+ start, cache"):
            known = "grid" if rows is noise else "grid, ours"
            trial_s[known] = trial_s[name]
            traces[known] = [grid(rows, table, volume)]
    (own_grid,) = traces["grid, ours"]
    goal = fmean(found[-1][1] for found in traces["script, TPE"])
    goal_s = median(found[-1][0] for found in traces["script, TPE"])
    rows_out = []
    for name, found in traces.items():
        reached = [seconds_to(goal, one) for one in found]
        rows_out.append(
            {
                "kind": name,
                "trial_s": trial_s[name],
                "end_s": median(one[-1][0] for one in found),
                "end_share": fmean(one[-1][1] for one in found),
                "goal": goal,
                "goal_s": goal_s,
                "seconds_to_goal": finite(median(reached)),
                "interval": [finite(x) for x in interval(reached)],
                "never_below_grid": never_below(found, own_grid),
            }
        )
    return rows_out


def never_below(ours: Sequence[Trace], grid: Trace) -> bool:
    """Whether each search has, whenever the grid gains, as much as the grid."""
    return all(seconds_to(share, one) <= at + 1e-9 for at, share in grid for one in ours)


def finite(value: float) -> float | None:
    """None where it never came."""
    return value if math.isfinite(value) else None


def table(found: Sequence[Found]) -> str:
    """One row a kind of search."""
    rows = [
        [
            at["kind"],
            f"{at['trial_s']:.0f}",
            f"{at['end_s']:.0f}",
            f"{at['end_share']:.3f}",
            "" if not at["goal"] else "never" if at["seconds_to_goal"] is None else spread(at),
            "" if not (at["goal"] and at["seconds_to_goal"]) else times_earlier(at),
            "yes" if at["never_below_grid"] else "no",
        ]
        for at in found
    ]
    heads = [
        "search",
        "s a trial",
        "s to its end",
        "hypervolume then",
        "s to what the script has at its end",
        "times earlier",
        "never below the grid, ours",
    ]
    return markdown(heads, rows)


def times_earlier(at: Found) -> str:
    """Than the script, which has it at its end."""
    return f"{at['goal_s'] / at['seconds_to_goal']:.1f}"


def spread(at: Found) -> str:
    """Median and interval [s]."""
    low, high = ("never" if x is None else f"{x:.0f}" for x in at["interval"])
    return f"{at['seconds_to_goal']:.0f} [{low}, {high}]"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", type=Path, required=True)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--etas", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--cache-s", type=float, required=True, help="CPU s of the teacher's cache")
    parser.add_argument("--anchor-s", type=float, required=True, help="CPU s of the anchor's curve")
    add_out(parser, "search")
    arguments = parser.parse_args(given)
    ours: Sequence[Found] = load_rows(arguments.ours)
    noise: Sequence[Found] = load_rows(arguments.noise)
    common = [tuple(row["params_of"]) for row in noise if tuple(row["params_of"]) in by_key(ours)]
    if len(common) < 3:
        parser.error(f"the tables have {len(common)} students in common: 3 or more are needed")
    ours = [by_key(ours)[key] for key in common]
    noise = [by_key(noise)[key] for key in common]
    setup = {"cache": arguments.cache_s, "anchor": arguments.anchor_s}
    parts, found = [], {}
    qualities: tuple[Quality, ...] = ("validation_loss", "bd_rate_pct")
    for quality in qualities:
        found[quality] = figures(ours, noise, setup, quality, arguments.etas)
        parts.append(f"{quality}\n\n{table(found[quality])}")
    n_compared = sum(row["bd_rate_pct"] is not None for row in noise)
    parts.append(
        f"{len(common)} students; {n_compared} of those from noise have a BD-rate against the "
        f"anchor. {SEEDS} searches of each kind."
    )
    publish(arguments, "\n\n".join(parts), {"n_students": len(common), "searches": found})


def by_key(rows: Sequence[Found]) -> dict[tuple[float, ...], Found]:
    """Rows by the values of `AXES`."""
    return {tuple(row["params_of"]): row for row in rows}


if __name__ == "__main__":
    main()
