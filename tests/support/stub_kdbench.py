"""`kdbench search` and `kdbench worker` over the stub: what `cli` does, and no torch.

STUB_SECONDS    how long a trial steps
STUB_PROBLEM    every worker ends with this problem
STUB_TRAINS     trials are those of `faults`, which resume
STUB_ATTEMPTS   how often a spec whose worker dies is tried
STUB_GRACE_S    how long a worker may be paused; its heart beats three times meanwhile
STUB_VERSION    of this kdbench
"""

import argparse
import functools
import os
import sys
from dataclasses import replace
from pathlib import Path

import kdbench
from kdbench.errors import KdbenchError, StoreError
from kdbench.search import storage, study
from kdbench.search.launch import Snapshot, search
from kdbench.search.task import Run
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub

COMMAND = (sys.executable, "-m", "tests.support.stub_kdbench")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["search", "worker"])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--index", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    _patch()
    try:
        if args.command == "search":
            _search(args)
        else:
            _work(args)
    except KeyboardInterrupt:
        return 130
    except KdbenchError as why:
        print(why, file=sys.stderr)
        return 1
    return 0


def _patch() -> None:
    """What a test must not wait for."""
    storage.MAX_RETRIES = int(os.environ.get("STUB_ATTEMPTS", storage.MAX_RETRIES + 1)) - 1
    if grace_s := os.environ.get("STUB_GRACE_S"):
        storage.GRACE_S = int(grace_s)
        storage.HEARTBEAT_S = max(1, storage.GRACE_S // 3)
    if version := os.environ.get("STUB_VERSION"):
        kdbench.__version__ = vars(study)["__version__"] = version
        stub.GROUND = replace(stub.GROUND, code=version)


def _search(args: argparse.Namespace) -> None:
    def tell(snapshot: Snapshot) -> None:
        for notice in snapshot.notices:
            print(notice, flush=True)
        if snapshot.ended:
            print(f"ended: {snapshot.ended}, {snapshot.n_complete} complete", flush=True)

    search(
        stub.study(args.root.parent, *args.set),
        Store(args.root),
        workers=args.workers,
        storage=os.environ.get("KDBENCH_STORAGE"),
        on_event=tell,
        ground=stub.GROUND,
        command=COMMAND,
    )


def _work(args: argparse.Namespace) -> None:
    if problem := os.environ.get("STUB_PROBLEM"):
        raise StoreError(problem, fix="none, this is a test")
    seconds = float(os.environ.get("STUB_SECONDS", "0"))
    run: Run = functools.partial(stub.run, seconds=seconds)
    if "STUB_TRAINS" in os.environ:
        from tests.support import faults

        run = functools.partial(faults.run, seconds=seconds)
    url = os.environ["KDBENCH_STORAGE"]
    work(args.study, Store(args.root), index=args.index, storage=url, run=run)


if __name__ == "__main__":
    sys.exit(main())
