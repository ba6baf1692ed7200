"""Dashboards that cannot be shown: of no study, of no database, where others could come."""

import sqlite3
import subprocess
import sys
from pathlib import Path

from kdbench.records import SCHEMA
from kdbench.store import Store
from tests.e2e.rows.row import Row
from tests.support.desk import both, data, edited
from tests.support.looking import make_watched, new_database
from tests.support.results import STUDY

DASHBOARD = f"dashboard --study {STUDY} --port 0"
OPEN_TO_ALL = (
    "`--host {}` can be reached from other machines, and the dashboard has no login: whoever comes "
    "reads all of the study\n"
    "  fix: leave `--host` out and come by `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE`, or say "
    "`--i-know-it-has-no-login`\n"
)
CORRECT = "correct `--storage`, or leave it out to use a file in `--root`\n"


def watched(folder: Path) -> None:
    """The stored study has a database, too."""
    new_database(Store(folder / "runs"))


def of_tomorrow(folder: Path) -> None:
    """The database was made by an Optuna that is not out yet."""
    watched(folder)
    with sqlite3.connect(folder / "runs" / STUDY / "optuna.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.0.0.a'")
        database.execute("UPDATE version_info SET library_version = '9.0.0'")
    database.close()


DIES = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size=1")  # so that pages are written before the end
database.execute("BEGIN IMMEDIATE")
for i in range(1000):
    row = (f"key {i}", '"' + "x" * 1000 + '"')
    database.execute("INSERT INTO study_user_attributes VALUES (NULL, 1, ?, ?)", row)
os.kill(os.getpid(), signal.SIGKILL)
"""


def half_written(folder: Path) -> None:
    """A process wrote into the database and died before it was through."""
    watched(folder)
    path = folder / "runs" / STUDY / "optuna.db"
    subprocess.run([sys.executable, "-c", DIES, str(path)], check=False)


def another(folder: Path) -> None:
    """A database of other studies."""
    make_watched(folder / "elsewhere")
    path = folder / "elsewhere" / STUDY / "optuna.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE studies SET study_name = 'other'")
    database.close()
    path.rename(folder / "other.db")


def exposed(host: str, port: int = 0) -> Row:
    """An address that other machines can reach."""
    return Row(
        broken=watched,
        command=f"dashboard --study {STUDY} --port {port} --host {host}",
        answer=OPEN_TO_ALL.format(host, port=port or 8080),
    )


ROWS = {
    "a dashboard of no study": Row(
        command="dashboard --study tinny",
        answer="no study 'tinny' has begun in HERE/runs\n"
        "  fix: studies here, nearest first: tiny; start it with `kdbench search --study tinny`, "
        "or name another folder with `--root`\n",
    ),
    "a dashboard of a study without its database": Row(
        command=DASHBOARD,
        answer="there is no database sqlite:///HERE/runs/tiny/optuna.db\n"
        "  fix: name the study's with `--storage`; a lost one is made again from the trials' "
        "folders by `kdbench search`\n",
    ),
    "a dashboard on a database that has other studies": Row(
        broken=another,
        command=f"{DASHBOARD} --storage sqlite:///other.db",
        answer="the database knows no study 'tiny'\n"
        "  fix: name the database that has it with `--storage`, or start it with `kdbench search "
        "--study tiny`\n",
    ),
    "a dashboard on no database": Row(
        broken=data("runs/tiny/optuna.db", b"x" * 4096),
        command=DASHBOARD,
        answer="the database sqlite:///HERE/runs/tiny/optuna.db fails: file is not a database\n"
        "  fix: move it away, `kdbench search` makes it again from the trials' folders; or "
        + CORRECT,
    ),
    "a dashboard on an empty database": Row(
        broken=data("runs/tiny/optuna.db", b""),
        command=DASHBOARD,
        answer="the database sqlite:///HERE/runs/tiny/optuna.db fails: no such table: "
        "version_info\n  fix: `kdbench search` makes its tables when it begins a study; or "
        + CORRECT,
    ),
    "a dashboard on a database of a newer Optuna": Row(
        broken=of_tomorrow,
        command=DASHBOARD,
        answer="the database sqlite:///HERE/runs/tiny/optuna.db fails: The runtime optuna version "
        "[...] is no longer compatible with the table schema (set up by optuna 9.0.0). Please try "
        "updating optuna to the latest version by `$ pip install -U optuna`.\n"
        "  fix: use the Optuna that made it; an older one's is brought up to date by `optuna "
        "storage upgrade --storage URL`, while no search runs\n",
    ),
    "a dashboard on a database that was left half written": Row(
        broken=half_written,
        command=DASHBOARD,
        answer="the database sqlite:///HERE/runs/tiny/optuna.db fails: attempt to write a readonly "
        "database\n  fix: a process died while it wrote: `kdbench search` makes the file whole "
        "when it begins\n",
    ),
    "a dashboard of a study of a newer kdbench": Row(
        broken=both(watched, edited("runs/tiny/study.json", f'"schema": {SCHEMA}', '"schema": 99')),
        command=DASHBOARD,
        answer=f"HERE/runs/tiny/study.json has schema 99, this kdbench reads up to {SCHEMA}\n"
        "  fix: use the newer kdbench that wrote it: `pip install --upgrade kdbench`\n",
    ),
    "a dashboard of a damaged trial": Row(
        broken=both(watched, data("runs/tiny/trials/0/result.json", b"{")),
        command=DASHBOARD,
        answer="HERE/runs/tiny/trials/0/result.json is damaged: [...]\n"
        "  fix: restore it from a copy, or move its folder away; the rest of the study is intact\n",
    ),
    "a dashboard of notes that are none": Row(
        broken=both(watched, data("runs/tiny/notes.json", b"[]")),
        command=DASHBOARD,
        answer="HERE/runs/tiny/notes.json is damaged: it has no schema number\n"
        "  fix: restore it from a copy, or move its folder away; the rest of the study is intact\n",
    ),
    "a dashboard for everybody": exposed("0.0.0.0"),
    "a dashboard for everybody of the next protocol": exposed("::", 8081),
    "a dashboard at no address": Row(
        broken=watched,
        command=f"{DASHBOARD} --host no.such.host.invalid",
        answer="`--host no.such.host.invalid` is no address of this machine\n"
        "  fix: leave `--host` out: 127.0.0.1, which this machine alone can reach\n",
    ),
    "a dashboard at the address of another machine": Row(
        broken=watched,
        command=f"{DASHBOARD} --host 192.0.2.1 --i-know-it-has-no-login",
        answer="cannot listen at 192.0.2.1, port 0: cannot assign requested address\n"
        "  fix: leave `--host` out: 127.0.0.1, which this machine alone can reach\n",
    ),
    "a port that is none": Row(
        command=f"dashboard --study {STUDY} --port 65536",
        answer="kdbench dashboard: argument --port: 65536 is not from 0 to 65535\n"
        "  fix: see `kdbench dashboard --help`\n",
        code=2,
    ),
    "a dashboard that may and may not be written": Row(
        command=f"{DASHBOARD} --read-only --write",
        answer="kdbench dashboard: argument --write: not allowed with argument --read-only\n"
        "  fix: see `kdbench dashboard --help`\n",
        code=2,
    ),
}
