"""Words of the command line that make no sense, and studies and trials that are not there."""

from dataclasses import replace
from pathlib import Path

from kdbench.records import SCHEMA, Distillation
from kdbench.store import Store, keep_spec
from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, data, edited
from tests.support.results import spec

ALL = "`kdbench show --study tiny --all`"
COMPLETE = "fix: choose one that `kdbench show` lists\n"
DAMAGED = (
    "  fix: restore it from a copy, or move its folder away; the rest of the study is intact\n"
)
NO_TWIN = (
    "it is its own twin, there is nothing to compare\n  fix: name a distilled trial with "
    "`--trial N`; `kdbench show --json` has every `spec.distillation`\n"
)
TRIAL = "runs/tiny/trials/0"


def usage(command: str, problem: str) -> Row:
    """Wrong usage: exit code 2, and where help is."""
    name = command.split(maxsplit=1)[0] if not problem.startswith(("there", "unrec")) else ""
    prog = f"kdbench {name}".rstrip()
    return Row(command=command, code=2, answer=f"{prog}: {problem}\n  fix: see `{prog} --help`\n")


def of_study(command: str, name: str = "tinny") -> Row:
    """A command on a study that has not begun."""
    return Row(
        command=command,
        answer=f"no study {name!r} has begun in HERE/runs\n"
        f"  fix: studies here, nearest first: tiny; start it with `kdbench search --study {name}`, "
        "or name another folder with `--root`\n",
    )


def again(trial: str, answer: str) -> Row:
    """`rerun` of a trial that cannot be run again."""
    return Row(command=f"rerun --study tiny --trial {trial}", answer=answer)


def damaged(name: str, content: bytes, why: str) -> Row:
    """A file of a stored study that is not what was written."""
    return Row(
        broken=data(f"runs/tiny/{name}", content),
        command="show --study tiny",
        answer=f"HERE/runs/tiny/{name} is damaged: {why}\n{DAMAGED}",
    )


def told_otherwise(plan: Distillation) -> Prepare:
    """Trial 0 of the stored study was told to distil like this."""

    def tell(folder: Path) -> None:
        files = Store(folder / "runs").trial("tiny", 0)
        files.spec.unlink()
        keep_spec(files, replace(spec(0), distillation=plan))

    return tell


ROWS = {
    "a command that nobody knows": usage(
        "serch --study quick",
        "there is no command 'serch'; there are, nearest first: "
        "search, teach, bench, show, rerun, check, worker, export, encode, decode, measure, "
        "dashboard, status, report, replay, doctor, collect",
    ),
    "a search without a study": usage("search", "the following arguments are required: --study"),
    "a bench without a codec": usage("bench", "the following arguments are required: CODEC"),
    "a word for a number of trials": usage(
        "search --study quick --trials many",
        "argument --trials: invalid whole number value: 'many'",
    ),
    "less than no worker": usage(
        "search --study quick --workers -1", "argument --workers: -1 is not at least 1"
    ),
    "no time at all": usage(
        "search --study quick --timeout 0", "argument --timeout: 0 is not above 0"
    ),
    "an option that nobody knows": usage(
        "show --study tiny --colour", "unrecognized arguments: --colour"
    ),
    "a teacher's name that is a path": usage(
        "teach a/b",
        "argument NAME: 'a/b' has more than letters, digits, `-`, `_`, `.`, or more "
        "than 100 of them",
    ),
    "a study to show that has not begun": of_study("show --study tinny"),
    "a study to rerun that has not begun": of_study("rerun --study tinny"),
    "a study to work on that has not begun": of_study("worker --study tinny"),
    "the status of a study that has not begun": of_study("status --study tinny"),
    "a launcher that nobody knows": usage(
        "search --study quick --launcher slurn",
        "argument --launcher: invalid choice: 'slurn' (choose from 'local', 'slurm')",
    ),
    "a search that leaves workers of this machine": Row(
        command="search --study quick --detach",
        answer="`--detach` needs `--launcher slurm`: workers here end with their search\n"
        "  fix: leave `--detach` out, or let Slurm run the study\n",
    ),
    "a partition for workers of this machine": Row(
        command="search --study quick --launcher local --set launcher.partition=gpu",
        answer='--set: launcher.partition: got "gpu"; is of `launcher.name: slurm`, and the '
        "launcher is local\n  fix: correct what is listed; `kdbench check` reads every study and "
        "space file again\n",
    ),
    "a study to bench that has not begun": of_study("bench trial:tinny/0"),
    "a study's name that leads elsewhere": Row(
        command="show --study ..",
        answer="'..' cannot name a study\n"
        "  fix: use letters, digits, `-`, `_` and `.`, 100 at most; `cache` is taken\n",
    ),
    "a trial number that is not there": again(
        "99",
        "study 'tiny' has no trial 99\n"
        f"  fix: there is, nearest first: 5, 4, 3, 2, 1; {ALL} lists its trials\n",
    ),
    "a trial that was infeasible": again(
        "2",
        "trial 2 has no result to compare with: params is 3,400,000, above the limit of 3,000,000"
        f"\n  {COMPLETE}",
    ),
    "a trial that failed": again(
        "4",
        "trial 4 has no result to compare with: the loss became nan at step 312 of 800\n"
        f"  {COMPLETE}",
    ),
    "a trial that runs": again(
        "5", f"trial 5 has no result to compare with: it did not end\n  {COMPLETE}"
    ),
    "a trial that is a word": again(
        "last",
        "`last` names no trial\n"
        f"  fix: use a number, best, best:OBJECTIVE or knee; {ALL} lists the trials\n",
    ),
    "a twin of a trial without a teacher": Row(
        broken=told_otherwise(Distillation()),
        command="rerun --study tiny --trial 0 --twin",
        answer=f"trial 0 has no teacher: {NO_TWIN}",
    ),
    "a twin of a trial that was not distilled": Row(
        broken=told_otherwise(Distillation(teacher="teacher:default", temperature=2.0)),
        command="rerun --study tiny --trial best --twin --seeds 2",
        answer=f"trial 0 has every distillation weight 0: {NO_TWIN}",
    ),
    "a twin of a trial that failed": again(
        "4 --twin",
        "trial 4 has no result to compare with: the loss became nan at step 312 of 800\n"
        f"  {COMPLETE}",
    ),
    "fresh seeds of a trial that runs": again(
        "5 --seeds 2", f"trial 5 has no result to compare with: it did not end\n  {COMPLETE}"
    ),
    "no seed at all": usage(
        "rerun --study tiny --twin --seeds 0", "argument --seeds: 0 is not at least 1"
    ),
    "a word for a number of seeds": usage(
        "rerun --study tiny --seeds few", "argument --seeds: invalid whole number value: 'few'"
    ),
    "the best of an objective that the study has not": again(
        "best:params",
        "`params` is no objective of study 'tiny'\n  fix: use best:OBJECTIVE with one of, "
        "nearest first: bd_rate_pct, energy_j_per_mpx, kmac_per_px\n",
    ),
    "a result that was cut short": damaged(
        "trials/0/result.json",
        b'{"schema": 1',
        "EOF while parsing an object at line 1 column 12",
    ),
    "a study file that is empty": damaged(
        "study.json", b"", "EOF while parsing a value at line 1 column 0"
    ),
    "a spec that somebody edited": Row(
        broken=edited(f"{TRIAL}/spec.json", '"seed": 0', '"seed": 7'),
        command="show --study tiny",
        answer=f"HERE/{TRIAL}/spec.json is damaged: its spec is not the one its hash names\n"
        + DAMAGED,
    ),
    "a result of a newer kdbench": Row(
        broken=edited(f"{TRIAL}/result.json", f'"schema": {SCHEMA}', '"schema": 99'),
        command="show --study tiny",
        answer=f"HERE/{TRIAL}/result.json has schema 99, this kdbench reads up to {SCHEMA}\n"
        "  fix: use the newer kdbench that wrote it: `pip install --upgrade kdbench`\n",
    ),
}
