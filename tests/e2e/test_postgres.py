"""Several machines on one PostgreSQL: exact budgets, cut connections, no shared root, no leaks.

Trials are a stub; processes, host names and the server are real.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from kdbench import cli
from kdbench.search.attributes import BY, DUPLICATE_OF, SPEC_HASH, UPLOADED
from kdbench.search.patience import PatientStorage
from kdbench.search.storage import connect
from tests.support import processes
from tests.support.edits import without_checksum
from tests.support.hosts import Host, finish
from tests.support.postgres import Postgres, needs_postgres, served

pytestmark = [pytest.mark.slow, pytest.mark.postgres, needs_postgres]
KDBENCH = (sys.executable, "-m", "kdbench")
PATIENCE_S = 180.0
BRIEF = {"STUB_SECONDS": "0.1"}
LONG = {"STUB_SECONDS": "300"}


class Machines:
    """Two machines and a database."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self.postgres, self.url = postgres, postgres.database()
        self.database = make_url(self.url).database or ""
        self.home = Host("home", folder / "home", self.url)
        self.away = Host("away", folder / "away", self.url)
        self._storage: PatientStorage | None = None
        self._study: optuna.Study | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a coordinator has told all that workers need."""
        asked = "SELECT to_regclass('study_user_attributes') IS NOT NULL"
        if not self.postgres.sql(asked, database=self.database)[0][0]:
            return False
        asked = "SELECT 1 FROM study_user_attributes WHERE key = 'budget'"
        return bool(self.postgres.sql(asked, database=self.database))

    def trials(self) -> list[FrozenTrial]:
        """What the database says."""
        if self._study is None:
            if not self.has_begun:
                return []
            self._storage = connect(self.url, create=False)
            self._study = optuna.load_study(study_name="demo", storage=self._storage)
        return self._study.get_trials(deepcopy=False)

    def close(self) -> None:
        """End what still runs."""
        self.home.close()
        self.away.close()
        if self._storage is not None:
            self._storage.close()

    def own(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in these states that repeat no other one."""
        found = [trial for trial in self.trials() if trial.state in states]
        return [trial for trial in found if DUPLICATE_OF not in trial.user_attrs]

    def assert_exactly(self, n: int) -> None:
        """`n` specs are complete, no spec was trained to an end twice, nothing runs."""
        done = self.own(TrialState.COMPLETE)
        assert len({trial.user_attrs[SPEC_HASH] for trial in done}) == len(done) == n
        assert self.own(TrialState.RUNNING) == []

    def begin(self, *arguments: str) -> None:
        """The study begins at home, and nobody works on it."""
        process = self.home.start("search", "--workers", "0", *arguments)
        until(lambda: self.has_begun)
        process.send_signal(signal.SIGINT)
        assert finish(process)[0] == 130


@pytest.fixture
def machines(postgres: Postgres, tmp_path: Path) -> Iterator[Machines]:
    made = Machines(postgres, tmp_path)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    processes.until(condition, PATIENCE_S)


# --- budgets --------------------------------------------------------------------------------------


def test_a_budget_is_exact_however_many_workers_of_two_machines_end_at_once(
    machines: Machines,
) -> None:
    search = machines.home.start("search", "--workers", "2", "--set", "trials=16", **BRIEF)
    until(lambda: machines.has_begun)
    until(lambda: any(BY in trial.user_attrs for trial in machines.trials()))
    others = [machines.away.worker(**BRIEF) for _ in range(2)]
    code, printed = finish(search)
    assert (code, printed.splitlines()[-1]) == (0, "ended: complete, 16 complete")
    assert [finish(each)[0] for each in others] == [0, 0]
    machines.assert_exactly(16)
    hosts = Counter(trial.user_attrs[BY]["host"] for trial in machines.own(TrialState.COMPLETE))
    assert set(hosts) == {"home", "away"}


def test_a_search_without_workers_watches_those_of_other_machines_who_come_and_go(
    machines: Machines,
) -> None:
    search = machines.home.start("search", "--workers", "0", "--set", "trials=8", **BRIEF)
    until(lambda: machines.has_begun)
    leaves, dies = (machines.away.worker(**LONG) for _ in range(2))
    until(lambda: len(machines.own(TrialState.RUNNING)) == 2)
    leaves.send_signal(signal.SIGTERM)
    assert finish(leaves)[0] == 130
    dies.kill()
    dies.wait()
    come = [machines.away.worker(**BRIEF) for _ in range(3)]
    assert [finish(each)[0] for each in come] == [0, 0, 0]
    code, printed = finish(search)
    assert code == 0
    assert "no worker is started here; `kdbench worker --study demo" in printed
    assert printed.endswith("ended: complete, 8 complete\n")
    machines.assert_exactly(8)
    # what they uploaded has come home
    stored = machines.home.store.trials("demo")
    assert sum(trial.state == "complete" for trial in stored) == 8
    assert {trial.reason for trial in stored if trial.state == "failed"} <= {
        "interrupted",
        "its worker died",
    }


def test_a_watcher_that_is_interrupted_says_that_the_others_go_on(machines: Machines) -> None:
    process = machines.home.start(
        "search", "--workers", "0", "--study", "smoke", program=KDBENCH, **BRIEF
    )
    until(lambda: machines.has_begun)
    process.send_signal(signal.SIGINT)
    code, printed = finish(process)
    assert code == 130
    assert printed.endswith(
        "interrupted; workers elsewhere go on; the same command watches them again\n"
    )


# --- connections and servers that go away ---------------------------------------------------------


def test_cut_connections_cost_no_trial_and_the_budget_stays_exact(machines: Machines) -> None:
    machines.begin("--set", "trials=10")
    workers = [machines.away.worker(STUB_SECONDS="1") for _ in range(3)]
    until(lambda: bool(machines.own(TrialState.RUNNING)))
    until(lambda: len(machines.away.store.workers("demo")) == 3)
    n_cut = 0
    while any(each.poll() is None for each in workers):
        began = time.monotonic()
        n_cut += machines.postgres.cut(machines.database)
        # less than an ask needs, more than a connection does, also on a machine with other work
        time.sleep(0.5 + 5 * (time.monotonic() - began))
    ended = [finish(each) for each in workers]
    assert [code for code, _ in ended] == [0, 0, 0], ended
    assert n_cut > 3
    machines.assert_exactly(10)


def test_a_worker_waits_for_a_server_that_crashed_and_keeps_what_it_trained(
    tmp_path: Path,
) -> None:
    with served() as server:
        machines = Machines(server, tmp_path)
        machines.begin("--set", "trials=3")
        worker = machines.away.worker(STUB_SECONDS="2")
        until(lambda: bool(machines.away.workers()))
        (number,) = machines.away.workers()
        server.stop()
        time.sleep(6.0)  # the trial ends meanwhile
        assert worker.poll() is None
        server.start()
        code, printed = finish(worker)
        assert code == 0
        assert "the database is gone; waiting for it, 600 s at most\n" in printed
        assert "the database is back after " in printed
        machines.assert_exactly(3)
        assert len(machines.trials()) == len({t.number for t in machines.trials()})
        assert machines.trials()[number].state == TrialState.COMPLETE
        machines.close()


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute_costs_no_trial(tmp_path: Path) -> None:
    """Longer than a heartbeat and than what a kernel waits for a connection; both workers go on."""
    with served() as server:
        machines = Machines(server, tmp_path)
        machines.begin("--set", "trials=8")
        end = tmp_path / "end"
        told = {"STUB_SECONDS": "2", "STUB_UNTIL": str(end)}
        workers = [machines.away.worker(**told) for _ in range(2)]
        until(lambda: len(machines.away.workers()) == 2)
        under_way = {trial.number for trial in machines.own(TrialState.RUNNING)}
        server.stop()
        time.sleep(30.0)
        end.touch()  # both trials end while nobody can be told
        time.sleep(30.0)
        assert [each.poll() for each in workers] == [None, None]
        server.start()
        ended = [finish(each) for each in workers]
        assert [code for code, _ in ended] == [0, 0], ended
        for _, printed in ended:
            assert "the database is gone; waiting for it, 600 s at most\n" in printed
            assert "the database is back after " in printed
        machines.assert_exactly(8)
        trials = machines.trials()
        assert {trials[number].state for number in under_way} == {TrialState.COMPLETE}
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.WAITING}
        later = [t for t in trials if t.number not in under_way and BY in t.user_attrs]
        assert {trial.user_attrs[BY]["worker"] for trial in later} == {0, 1}
        stored = machines.away.store.trials("demo")
        assert [trial.state for trial in stored] == ["complete"] * 8
        machines.close()


@pytest.mark.parametrize("heals", [True, False], ids=["in a file", "in the environment"])
def test_a_password_that_becomes_wrong_is_waited_for_where_it_may_change(
    machines: Machines, postgres: Postgres, tmp_path: Path, heals: bool
) -> None:
    user = f"of_{machines.database}"
    postgres.role(user, "one")
    postgres.sql(f"ALTER DATABASE {machines.database} OWNER TO {user}")
    machines.home.url = postgres.url(machines.database, user, "one")
    machines.begin("--set", "trials=1")
    file, until_file = tmp_path / "pgpass", tmp_path / "go"
    file.write_text(f"*:*:*:{user}:one\n")
    file.chmod(0o600)
    machines.away.url = postgres.url(machines.database, user, None)
    told = {"PGPASSFILE": str(file)} if heals else {"PGPASSWORD": "one"}
    worker = machines.away.worker(STUB_UNTIL=str(until_file), **told)
    until(lambda: bool(machines.away.workers()))
    postgres.sql(f"ALTER ROLE {user} PASSWORD 'two'")
    postgres.cut(machines.database)
    until_file.touch()
    if heals:
        until(lambda: refusals(postgres, user) > 3)
        file.write_text(f"*:*:*:{user}:two\n")
        code, printed = finish(worker)
        assert code == 0, printed
        waits = "the database refuses the password; waiting for another one in ~/.pgpass, 600 s"
        assert waits in printed
        machines.assert_exactly(1)
        assert [trial.number for trial in machines.own(TrialState.COMPLETE)] == [0]
    else:
        code, printed = finish(worker)
        assert code == 1
        assert f'fails: password authentication failed for user "{user}"\n  fix: put' in printed


def refusals(postgres: Postgres, user: str) -> int:
    """How often the server refused a user's password."""
    return postgres.log().count(f'FATAL:  password authentication failed for user "{user}"')


# --- roots that are not shared --------------------------------------------------------------------


def collected(host: Host, *arguments: str) -> tuple[int, str]:
    return finish(host.start("collect", "--study", "demo", *arguments, program=KDBENCH))


def test_what_was_uploaded_is_collected_whole_checked_and_shown(
    machines: Machines, tmp_path: Path
) -> None:
    machines.begin("--set", "trials=3")
    assert finish(machines.away.worker())[0] == 0
    third = Host("third", tmp_path / "third", machines.url)
    code, printed = collected(third)
    n = len(machines.away.store.trials("demo"))
    words = f"study demo: {n} trials collected into {third.store.root}"
    assert (code, "".join(printed.split())) == (0, "".join(words.split()))
    for mine in machines.away.store.trials("demo"):
        theirs = third.store.load_trial("demo", mine.number)
        assert {p.name: p.read_bytes() for p in theirs.folder.whole} == {
            p.name: p.read_bytes() for p in mine.folder.whole
        }
    assert " ".join(collected(third)[1].split()).endswith(f", {n} here already")
    assert collected(third, "--check") == (0, "study demo: database and folders agree\n")
    shown = third.start("show", "--study", "demo", "--all", "--json", program=KDBENCH)
    code, printed = finish(shown)
    assert code == 0
    assert [each["state"] for each in json.loads(printed)["trials"]] == ["complete"] * n

    spec = third.store.trial("demo", 1).spec
    spec.write_text(without_checksum(spec).replace('"seed": 0', '"seed": 0 '))
    third.store.trial("demo", 2).result.unlink()
    code, printed = collected(third, "--check", "--json")
    assert code == 1
    found = {
        (each["trial"], each["database"].split(";")[0].split(" of ")[0])
        for each in json.loads(printed)["problems"]
    }
    assert found == {(1, "spec.json"), (2, "complete"), (2, "result.json")}
    code, printed = collected(third, "--json")
    document = json.loads(printed)
    assert (code, document["completed"]) == (1, [2])
    assert [(each["trial"], each["folder"]) for each in document["problems"]] == [
        (1, "another one, kept")
    ]
    assert '"seed": 0 ' in spec.read_text()

    # the first root is lost: the collected one becomes the study's own, and the search goes on
    go_on = third.start("search", "--workers", "1", "--set", "trials=4")
    code, printed = finish(go_on)
    assert code == 0
    assert printed.endswith("ended: complete, 4 complete\n")


def test_a_worker_that_was_not_told_to_upload_is_refused_in_a_root_of_its_own(
    machines: Machines,
) -> None:
    machines.begin()
    code, printed = finish(machines.away.start("worker"))
    assert code == 1
    assert "is not the folder in which study 'demo' began\n  fix: name the study's own" in printed
    assert not machines.away.store.study_folder("demo").exists()
    assert finish(machines.away.worker())[0] == 0
    code, printed = finish(machines.away.start("worker"))
    assert code == 1
    assert "holds copies of what workers of study 'demo' found here" in printed
    code, printed = finish(machines.away.start("search", "--workers", "1"))
    assert code == 1
    assert "holds copies of a worker that uploads, not the study" in printed


def test_a_worker_that_shares_the_root_uploads_nothing(machines: Machines) -> None:
    machines.begin("--set", "trials=2")
    code, printed = finish(machines.home.worker())
    assert (code, printed) == (0, "this root is the study's own: nothing needs to be uploaded\n")
    assert not any(UPLOADED in trial.user_attrs for trial in machines.trials())
    assert len(machines.home.store.trials("demo")) == 2


def test_what_a_worker_could_not_upload_before_it_died_is_uploaded_by_the_next_one(
    machines: Machines,
) -> None:
    machines.begin("--set", "trials=5")  # those of the diagonal; then what died is tried again
    worker = machines.away.worker(STUB_DIES_UPLOADING="yes")
    assert finish(worker)[0] == -signal.SIGKILL
    (kept,) = machines.away.store.trials("demo")
    assert kept.state == "complete"
    assert machines.own(TrialState.COMPLETE) == []
    assert finish(machines.away.worker())[0] == 0
    told = [t for t in machines.trials() if t.user_attrs.get(DUPLICATE_OF) == kept.number]
    assert [trial.state for trial in told] == [TrialState.COMPLETE]
    assert collected(machines.home)[0] == 0
    assert machines.home.store.load_trial("demo", kept.number).state == "complete"
    assert collected(machines.home, "--check") == (0, "study demo: database and folders agree\n")


# --- secrets --------------------------------------------------------------------------------------


def hosts(trials: list[FrozenTrial]) -> set[str]:
    """Of the workers that said who they are."""
    return {t.user_attrs[BY]["host"] for t in trials if BY in t.user_attrs}


def test_a_password_is_seen_nowhere(machines: Machines, postgres: Postgres) -> None:
    token = "tok3n/that§nobody-else-has"
    forms = {token.encode(), quote(token, safe="").encode(), b"that\xc2\xa7nobody"}
    postgres.role("secretive", token)
    postgres.sql(f"ALTER DATABASE {machines.database} OWNER TO secretive")
    url = postgres.url(machines.database, "secretive", token)
    told = {"KDBENCH_STORAGE": url, "STUB_SECONDS": "1"}
    said = [finish(machines.away.start("worker", **told))[1]]
    search = machines.home.start("search", "--workers", "1", "--set", "trials=4", **told)
    until(lambda: machines.has_begun)
    until(lambda: any(BY in trial.user_attrs for trial in machines.trials()))
    worker = machines.away.worker(**told)
    until(lambda: len(hosts(machines.own(TrialState.RUNNING))) == 2)
    lines = [
        b"\0".join(map(os.fsencode, each.info["cmdline"] or []))
        for each in psutil.process_iter(["cmdline"])
    ]
    ended = [finish(search), finish(worker)]
    assert [code for code, _ in ended] == [0, 0]
    wrong = {**told, "KDBENCH_STORAGE": url.replace(quote(token, safe=""), "another")}
    refused = finish(machines.home.start("search", "--workers", "1", "--set", "trials=5", **wrong))
    assert 'password authentication failed for user "secretive"' in refused[1]
    said += [*(printed for _, printed in ended), refused[1]]
    for arguments in (
        ("collect", "--study", "demo"),
        ("collect", "--study", "demo", "--check", "--json"),
        ("show", "--study", "demo", "--all", "--json"),
        ("report", "--study", "demo", "--format", "text"),
        ("report", "--study", "demo", "--format", "json"),
        ("doctor", "--json"),
    ):
        said.append(finish(machines.home.start(*arguments, program=KDBENCH, **told))[1])
    for kind in ("html", "markdown", "latex"):
        out = str(machines.home.folder / f"report.{kind}")
        report = ("report", "--study", "demo", "--format", kind, "--out", out)
        said.append(finish(machines.home.start(*report, program=KDBENCH, **told))[1])
    wrong = {"KDBENCH_STORAGE": url.replace("tok3n", "tok3n0")}
    said.append(finish(machines.home.start("search", "--workers", "1", **wrong))[1])
    assert 'password authentication failed for user "secretive"' in said[-1]
    everywhere = [*lines, *(text.encode() for text in said), postgres.log().encode()]
    for folder in (machines.home.folder, machines.away.folder):
        everywhere += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    stored = postgres.sql(
        "SELECT value_json FROM trial_user_attributes UNION SELECT value_json FROM "
        "trial_system_attributes UNION SELECT value_json FROM study_user_attributes",
        database=machines.database,
    )
    everywhere += [str(row).encode() for row in stored]
    assert len(everywhere) > 50
    assert [text[:200] for text in everywhere if any(form in text for form in forms)] == []
    assert any(b"worker" in line and b"--index" in line for line in lines)


# --- what is wrong with a server ------------------------------------------------------------------


def said_of(url: str, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> str:
    patch.setenv("KDBENCH_STORAGE", url)
    code = cli.main(["collect", "--study", "demo", "--root", "nowhere"])
    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    return captured.err


def test_what_is_wrong_with_a_server_is_said_with_its_fix(
    postgres: Postgres,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = postgres.database()
    name = make_url(url).database or ""
    shown = f"the database postgresql://ann:***@127.0.0.1:{postgres.port}/{name} fails: "
    wrong = said_of(postgres.url(name, "ann", "wr0ng"), capsys, monkeypatch)
    assert wrong == (
        f'{shown}password authentication failed for user "ann"\n'
        "  fix: put the right one into PGPASSWORD or ~/.pgpass, or the whole URL into the "
        "environment variable KDBENCH_STORAGE\n"
    )
    absent = said_of(postgres.url("nowhere"), capsys, monkeypatch)
    assert 'fails: database "nowhere" does not exist\n  fix: make it: `createdb --owner' in absent
    empty = said_of(url, capsys, monkeypatch)
    assert 'fails: relation "version_info" does not exist\n  fix: `kdbench search` makes' in empty
    nobody = said_of(postgres.url(name, "ann", None), capsys, monkeypatch)
    assert "no password supplied\n  fix: put the right one into PGPASSWORD" in nobody


def test_who_may_make_no_tables_is_told_what_to_grant(
    machines: Machines, postgres: Postgres
) -> None:
    postgres.role("guest", "guest")
    url = postgres.url(machines.database, "guest", "guest")
    code, printed = finish(machines.home.start("search", "--workers", "1", KDBENCH_STORAGE=url))
    assert code == 1
    assert "fails: permission denied for schema public\n  fix: as the owner of database" in printed
    assert "`GRANT USAGE, CREATE ON SCHEMA public TO guest`" in printed
    machines.begin()
    code, printed = finish(machines.away.worker(KDBENCH_STORAGE=url))
    assert code == 1
    assert "permission denied for table " in printed
    assert "workers log in as who began the study" in printed


def test_a_server_that_is_too_old_is_told_from_which_version_on(
    postgres: Postgres,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdbench.search.postgres.OLDEST", (99,))
    said = said_of(postgres.database(), capsys, monkeypatch)
    assert ", and kdbench needs 99 or newer\n  fix: upgrade the server" in said


def test_a_server_without_room_for_one_more_is_told(tmp_path: Path) -> None:
    with served(max_connections="4", superuser_reserved_connections="3", fsync="off") as server:
        server.role("ann", "ann")
        host = Host("home", tmp_path / "home", server.url("postgres", "ann", "ann"))
        server.sql("GRANT CREATE ON SCHEMA public TO ann")
        held = threading.Event()
        connection = server._connect("postgres")
        held.set()
        code, printed = finish(host.start("search", "--workers", "1"))
        connection.close()
        host.close()
    assert code == 1
    assert "fix: raise `max_connections` of the server, two for each worker" in printed


def test_two_searches_of_two_machines_begin_at_once_and_one_study_begins(
    machines: Machines,
) -> None:
    both = [
        host.start("search", "--workers", "1", **BRIEF) for host in (machines.home, machines.away)
    ]
    ended = [finish(each) for each in both]
    assert sorted(code for code, _ in ended) == [0, 1]
    (refused,) = (printed for code, printed in ended if code == 1)
    assert "Traceback" not in refused
    assert "\n  fix: " in refused
    machines.assert_exactly(4)


def test_plain_sqlite_needs_no_driver_of_postgresql(tmp_path: Path) -> None:
    """The extra is an extra."""
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from kdbench.search.storage import connect\n"
        f"connect('sqlite:///{tmp_path}/a.db', create=True)\n"
        "try: connect('postgresql://a@127.0.0.1:1/b', create=True)\n"
        "except Exception as why: print(why)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "connection refused" in run.stdout
