"""`kdbench search` and `kdbench worker` over the stub: what `cli` does, and no torch.

STUB_SECONDS    how long a trial steps
STUB_UNTIL      a file; a trial steps on until it is there
STUB_PROBLEM    every worker ends with this problem
STUB_TELLS      a file to which every worker adds its index and the GPUs it was given
STUB_DIES_UPLOADING     workers are killed when they would upload what they found
STUB_TRAINS     trials are those of `faults`, which resume
STUB_ATTEMPTS   how often a spec whose worker dies is tried
STUB_GRACE_S    how long a worker may be paused; its heart beats three times meanwhile
STUB_VERSION    of this kdbench
"""

import argparse
import functools
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import kdbench
from kdbench.errors import KdbenchError, StoreError
from kdbench.search import storage, study
from kdbench.search.interrupt import TimeUp
from kdbench.search.launch import search
from kdbench.search.slurm import back_into_queue
from kdbench.search.task import Run
from kdbench.search.upload import Uploader
from kdbench.search.watch import Snapshot
from kdbench.search.worker import work
from kdbench.store import Store
from tests.support import search as stub

COMMAND = (sys.executable, "-m", "tests.support.stub_kdbench")


def main() -> int:
    warnings.filterwarnings("ignore")  # as `cli.main` does
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["search", "worker"])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--study", default="demo")
    parser.add_argument("--index", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--upload", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--detach", action="store_true")
    args = parser.parse_args()
    _patch()
    try:
        if args.command == "search":
            _search(args)
        else:
            _work(args)
    except TimeUp:
        print(back_into_queue(), flush=True)
        return 130
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
        detach=args.detach,
    )


def _work(args: argparse.Namespace) -> None:
    if problem := os.environ.get("STUB_PROBLEM"):
        raise StoreError(problem, fix="none, this is a test")
    if os.environ.get("STUB_DIES_UPLOADING"):
        Uploader.trial = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    until, seconds = os.environ.get("STUB_UNTIL"), float(os.environ.get("STUB_SECONDS", "0"))
    path = None if until is None else Path(until)
    run: Run = functools.partial(stub.run, seconds=seconds, until=path)
    if "STUB_TRAINS" in os.environ:
        from tests.support import faults

        run = functools.partial(faults.run, seconds=seconds)
    if tells := os.environ.get("STUB_TELLS"):
        with Path(tells).open("a") as file:
            file.write(f"{args.index} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    url = os.environ["KDBENCH_STORAGE"]
    store = Store(args.root)
    work(args.study, store, index=args.index, storage=url, upload=args.upload, run=run)


if __name__ == "__main__":
    sys.exit(main())
