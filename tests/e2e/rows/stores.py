"""Roots that cannot be written, databases that do not answer or are of another study, devices."""

import shutil
from pathlib import Path

from kdbench.config import load_study
from kdbench.search import ground
from kdbench.search.budget import Budget, set_budget
from kdbench.search.study import begin
from kdbench.store import Store
from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, both, data

SEARCH = "search --study quick"
ROOT = "  fix: name a folder that can be written with `--root FOLDER` or KDBENCH_ROOT\n"
IN_THE_WAY = f"cannot be written: a file is where a folder should be\n{ROOT}"
NO_CUDA = (
    "device `{}`: [...]\n"
    "  fix: use `--device cpu`, or install NVIDIA's driver and a torch build with CUDA\n"
)
SILENT = (
    "  fix: start it, correct `--storage`, or leave `--storage` out to use a file in `--root`\n"
)
URLS = (
    "  fix: write sqlite:///FILE, postgresql://USER@HOST/DATABASE or "
    "mysql+pymysql://USER@HOST/DATABASE\n"
)
READABLE = (
    "came with a password, which every user of this machine can read in the list of processes\n"
    "  fix: put the whole URL into the environment variable KDBENCH_STORAGE; or leave the password "
    "out, PostgreSQL then takes it from PGPASSWORD or ~/.pgpass\n"
)
OR_CORRECT = "correct `--storage`, or leave it out to use a file in `--root`\n"
OTHER = "  fix: go on with the settings it began with, or begin another one: `--set name=NAME`\n"
SHARED = "sqlite:///shared.db"
BOTH = (
    "  fix: name the study's own root with `--root`, on a disk that both machines have; or let "
    "this one keep its own and upload what it finds: `--upload`"
)


def begun(root: str = "runs", url: str | None = None) -> Prepare:
    """The study `quick` has begun: its first specs are in the queue."""

    def start(folder: Path) -> None:
        cfg, store = load_study("quick"), Store(folder / root)
        address = url or store.database_url(cfg.name)
        study, _ = begin(cfg, store, address, lambda: ground.survey(cfg, store))
        set_budget(study, Budget(trials=cfg.trials))

    return start


def storage(url: str, answer: str) -> Row:
    """A search with its database elsewhere."""
    return Row(command=f"{SEARCH} --storage {url}", answer=answer)


def differs(arguments: str, *lines: str) -> Row:
    """A study that began with other settings."""
    return Row(
        broken=begun(),
        command=f"{SEARCH} {arguments}",
        answer="study 'quick' in HERE/runs/quick began with other settings:\n"
        + "".join(f"  {line}\n" for line in lines)
        + OTHER,
    )


def _one_more_photo(folder: Path) -> None:
    shutil.move(folder / "photos/evaluation/0.png", folder / "photos/train/2.png")


def without(command: str, device: str) -> Row:
    """A GPU that is not there."""
    return Row(command=f"{command} --device {device}", answer=NO_CUDA.format(device))


ROWS = {
    "a file in the way of the root": Row(
        command=f"{SEARCH} --root studies/quick.yaml",
        answer=f"HERE/studies/quick.yaml {IN_THE_WAY}",
    ),
    "a file in the way of the root's parent": Row(
        command=f"{SEARCH} --root studies/quick.yaml/runs",
        answer=f"HERE/studies/quick.yaml/runs {IN_THE_WAY}",
    ),
    "a file in the way of the cache": Row(
        command="bench jpeg --no-energy --images photos/train --root studies/quick.yaml",
        answer=f"HERE/studies/quick.yaml/cache/curve-[...].json {IN_THE_WAY}",
    ),
    "a root that the kernel owns": Row(
        command=f"{SEARCH} --root /proc/kdbench",
        answer=f"/proc/kdbench cannot be written: no such file or directory\n{ROOT}",
    ),
    "a server that does not answer": storage(
        "postgresql://me@127.0.0.1:1/kd",
        "the database postgresql://me@127.0.0.1:1/kd does not answer: 127.0.0.1:1: "
        f"connection refused\n{SILENT}",
    ),
    "a password where everybody can read it": storage(
        "postgresql://me:secret@127.0.0.1:1/kd",
        f"`--storage postgresql://me:***@127.0.0.1:1/kd` {READABLE}",
    ),
    "a password among the options where everybody can read it": Row(
        command="worker --study tiny --storage 'postgresql:///kd?user=me&password=secret'",
        answer=f"`--storage postgresql:///kd` {READABLE}",
    ),
    "another server that does not answer": storage(
        "mysql+pymysql://me@127.0.0.1:1/kd",
        "the database mysql+pymysql://me@127.0.0.1:1/kd does not answer: 127.0.0.1:1: "
        f"connection refused\n{SILENT}",
    ),
    "a host that nobody knows": storage(
        "postgresql://me@kdbench.invalid/kd",
        "the database postgresql://me@kdbench.invalid/kd does not answer: "
        f"kdbench.invalid:5432: [...]\n{SILENT}",
    ),
    "a storage that is no URL": storage(
        "nonsense",
        f"`--storage`: the value given is no URL of a database that Optuna knows\n{URLS}",
    ),
    "a database of a kind that Optuna does not know": storage(
        "mongodb://me@127.0.0.1/kd",
        f"`--storage`: mongodb is no URL of a database that Optuna knows\n{URLS}",
    ),
    "a database in memory": storage(
        "sqlite://",
        "sqlite:// lives in one process, and workers are several\n  fix: name a file: "
        "`--storage sqlite:///FOLDER/optuna.db`, or leave `--storage` out\n",
    ),
    "a database in a folder that is not there": storage(
        "sqlite:///nowhere/optuna.db",
        "the database sqlite:///nowhere/optuna.db fails: unable to open database file\n"
        "  fix: see that HERE/nowhere is a folder that can be written, on a disk with space; "
        f"{OR_CORRECT}",
    ),
    "a file that is no database": Row(
        broken=data("runs/quick/optuna.db", b"this is no database" * 100),
        command=SEARCH,
        answer="the database sqlite:///HERE/runs/quick/optuna.db is damaged: file is not a "
        "database\n  fix: move it away, `kdbench search` makes it again from the trials' folders; "
        "or restore it from a copy\n",
    ),
    "a worker without a database": Row(
        command="worker --study tiny",
        answer="the database sqlite:///HERE/runs/tiny/optuna.db fails: no such table: "
        "version_info\n  fix: `kdbench search` makes its tables when it begins a study; or "
        f"{OR_CORRECT}",
    ),
    "a worker in a root that is not the study's": Row(
        broken=begun("elsewhere", SHARED),
        command=f"worker --study quick --storage {SHARED}",
        answer="HERE/runs/quick is not the folder in which study 'quick' began\n" + BOTH + "\n",
    ),
    "a worker in a root of another study of that name": Row(
        broken=both(begun("elsewhere", SHARED), begun()),
        command=f"worker --study quick --storage {SHARED}",
        answer="HERE/runs/quick belongs to another study that is called 'quick', too\n"
        f"{BOTH} into another `--root`\n",
    ),
    "a worker that uploads into a root of another study": Row(
        broken=both(begun("elsewhere", SHARED), begun()),
        command=f"worker --study quick --upload --storage {SHARED}",
        answer="HERE/runs/quick belongs to another study that is called 'quick', too\n"
        f"{BOTH} into another `--root`\n",
    ),
    "a search in a root that another database's study is in": Row(
        broken=both(begun("elsewhere", SHARED), begun()),
        command=f"{SEARCH} --storage {SHARED}",
        answer="HERE/runs/quick and the database belong to two studies that are both called "
        "'quick'\n  fix: name the study's own root with `--root` or its own database with "
        "`--storage`, or begin another one: `--set name=NAME`\n",
    ),
    "collecting a study that no database knows": Row(
        broken=begun("elsewhere", SHARED),
        command=f"collect --study tiny --storage {SHARED}",
        answer="the database knows no study 'tiny' that has begun\n  fix: start it with `kdbench "
        "search --study tiny`; workers join it then, with the same `--storage`\n",
    ),
    "collecting into a root of another study of that name": Row(
        broken=both(begun("elsewhere", SHARED), begun()),
        command=f"collect --study quick --storage {SHARED}",
        answer="HERE/runs/quick is another study that is called 'quick', too:\n"
        "  database: the token [...]; folder: the token [...]\n"
        "  fix: collect into another `--root`, or name the database of this one with "
        "`--storage`\n",
    ),
    "a study that began with other settings": differs(
        "--set training.steps=5 --seed 1",
        "training.steps: stored 40, now 5",
        "seed: stored 0, now 1",
    ),
    "a study that began with another space": differs(
        "--set 'space.encoder.width=[8,16]'", "space.encoder.width: stored [24, 32], now [8, 16]"
    ),
    "a study that began on another device": differs(
        "--trials 9 --device cuda", 'device: stored "auto", now "cuda"'
    ),
    "a study that began with other photos": Row(
        broken=both(begun(), _one_more_photo),
        command=SEARCH,
        answer="study 'quick' began on another ground, and its numbers would not compare:\n"
        "  crops: then [...], now [...]\n"
        "  fix: go on where it began, or begin another one here: `--set name=NAME`\n",
    ),
    "a database of a study with other settings": Row(
        broken=begun("elsewhere", SHARED),
        command=f"{SEARCH} --seed 1 --storage {SHARED}",
        answer="study 'quick' in the database 'quick' began with other settings:\n"
        f"  seed: stored 0, now 1\n{OTHER}",
    ),
    "a database of a study whose folders are elsewhere": Row(
        broken=begun("elsewhere", SHARED),
        command=f"{SEARCH} --storage {SHARED}",
        answer="the database knows trials of study 'quick', whose folder is not in HERE/runs\n"
        "  fix: name the root that has it with `--root`, or another study with "
        "`--set name=NAME`\n",
    ),
    "a device to bench on that nobody knows": Row(
        command="bench jpeg --images photos/train --device gpu",
        answer="unknown device `gpu`\n  fix: use one of: auto, cpu, cuda, cuda:0, cuda:1, ...\n",
    ),
}
WITHOUT_CUDA = {
    "a search without CUDA": without(SEARCH, "cuda"),
    "a search without a fourth GPU": without(SEARCH, "cuda:3"),
    "a bench without CUDA": without("bench jpeg --images photos/train", "cuda"),
    "a rerun without CUDA": without("rerun --study tiny --trial 0", "cuda"),
    "a teacher without CUDA": without("teach mine --images photos/train --crop 64", "cuda"),
}
"""Where there is no GPU."""
