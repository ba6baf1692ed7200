"""Searches that cannot be, those that find nothing, and replays of what is not there."""

import shutil
from pathlib import Path

from tests.e2e.rows.recipes import FIX, overridden
from tests.e2e.rows.row import Row
from tests.e2e.rows.words import of_study, usage
from tests.support.desk import Prepare, edited

REPLAY = "replay --study tiny"


def without_results(*numbers: int) -> Prepare:
    """The stored study before some of its trials began."""

    def remove(folder: Path) -> None:
        for number in numbers:
            shutil.rmtree(folder / f"runs/tiny/trials/{number}")

    return remove


def unfinished(what: str, *numbers: int) -> Row:
    """A replay of a study that has nothing to search among."""
    return Row(
        broken=without_results(*numbers),
        command=REPLAY,
        answer=f"study 'tiny' has {what}, and a replay searches among several\n"
        "  fix: let `kdbench search --study tiny` finish some\n",
    )


def guessing(objectives: str, problem: str) -> Row:
    """A study that refuses by costs what it cannot judge by them."""
    return Row(
        command=f"search --study quick --set cost_first=true --set {objectives}",
        answer=f"--set: cost_first: got true; {problem}\n{FIX}",
    )


ROWS = {
    "a sampler that nobody knows": overridden(
        "sampler.name=nsga",
        'sampler.name: got "nsga"; must be one of: nsga3, nsga2, gp, grid, random, listed, '
        "tpe, qmc",
    ),
    "a grid of any number": Row(
        command="search --study quick --set sampler.name=grid --set "
        "'space.training.learning_rate={low: 1.0e-4, high: 1.0e-2, log: true}'",
        answer="--set: space.training.learning_rate: is any number of a range, and sampler.name: "
        "grid tries listed values; write some, [0.0001, 0.001, 0.01], or take qmc\n" + FIX,
    ),
    "a guess of quality where there is none": guessing(
        "objectives=[kmac_per_px,params]",
        "needs bd_rate_pct or validation_loss among the objectives, to guess from costs",
    ),
    "a guess from costs that are no objective": guessing(
        "objectives=[bd_rate_pct]",
        "needs a cost among the objectives",
    ),
    "a guess before a cost is known": guessing(
        "objectives=[bd_rate_pct,decode_s_per_mpx]",
        "has no use of decode_s_per_mpx as objective; it is known once all is trained",
    ),
    "a study whose every candidate is above a limit": Row(
        command="search --study quick --set constraints.params_max=20000",
        answer="study 'quick' ended without one complete trial: 2 of 2 broke a constraint; of the "
        "nearest, trial 0, params is 87,571, 338 % above params_max (20,000)\n"
        "  fix: constraints.params_max=87580 would let it in; or give the space smaller students, "
        "under another name (`--set name=NAME`); `kdbench show --study quick --all` tells why\n",
    ),
    "a replay of a study that has not begun": of_study("replay --study tinny"),
    "a replay of a study without finished trials": unfinished("no finished trials", 0, 1, 3),
    "a replay of a study with one finished trial": unfinished("1 finished trial", 0, 1),
    "a replay of ladders without rungs": Row(
        command=f"{REPLAY} --etas none,3",
        answer="the finished trials of study 'tiny' share no rung to stop others at\n"
        "  fix: `--etas none`, or a study with a ladder: `ladder: {rungs: [0.11, 0.33], stop: "
        "false}` looks and stops nobody\n",
    ),
    "a replay with guesses from costs, of none": Row(
        broken=edited("runs/tiny/study.json", '"bd_rate_pct",', ""),
        command=f"{REPLAY} --cost-first",
        answer="costs cannot refuse a trial of study 'tiny', which minimises kmac_per_px, "
        "energy_j_per_mpx\n  fix: leave `--cost-first` away; it needs bd_rate_pct or "
        "validation_loss and costs that are known before the training\n",
    ),
    "a replay of a sampler that nobody knows": Row(
        command=f"{REPLAY} --samplers tpe,nsga",
        answer="there is no sampler 'nsga' to replay\n"
        "  fix: name some of, nearest first: nsga3, nsga2, gp, random, tpe, qmc\n",
    ),
    "a replay of a sampler twice": usage(
        f"{REPLAY} --samplers tpe,tpe", "argument --samplers: tpe is there twice"
    ),
    "a replay of no sampler": usage(
        f"{REPLAY} --samplers tpe,,gp",
        "argument --samplers: 'tpe,,gp' is no list of names with a comma between them",
    ),
    "a replay of a ladder that stops nobody": usage(
        f"{REPLAY} --etas none,1",
        "argument --etas: '1' is neither none nor a whole number of at least 2",
    ),
    "a replay of a word for a ladder": usage(
        f"{REPLAY} --etas steep",
        "argument --etas: 'steep' is neither none nor a whole number of at least 2",
    ),
    "a replay of no search": usage(f"{REPLAY} --seeds 0", "argument --seeds: 0 is not at least 1"),
    "a replay of more than there is": usage(
        f"{REPLAY} --budget 1.5", "argument --budget: 1.5 is not above 0 and at most 1"
    ),
}
