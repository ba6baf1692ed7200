"""The `kdbench` command: one function a command, which reads files, calls one function, prints.

Exit codes: 0 done, 1 a problem that the user can solve (its fix is on stderr), 2 wrong usage,
130 interrupted. What is heavy is imported by the command that needs it.
"""

import json
import os
import sys
import tempfile
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import __version__
from kdbench.arguments import overrides, parse
from kdbench.errors import DataError, KdbenchError

if TYPE_CHECKING:
    from kdbench.coding import Coded
    from kdbench.config import CodecList
    from kdbench.store import Store

ANCHOR = "teacher:default"  # of `bench`
GOES_ON = "the same command goes on from what is finished"
ENDED = {
    "timeout": "the time is up; the same command goes on",
    "asks": "ended early: as many trials were begun as may be, four for each asked for or all that "
    "are listed, and too few were complete; `kdbench show --all` tells why",
    "exhausted": "the grid is through: every combination of the space has been tried",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    warnings.filterwarnings("ignore")  # of libraries, about themselves; ours are errors
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Δ shows ?
    from kdbench.files import disk_errors

    try:
        with disk_errors():
            code = FUNCTIONS[arguments.command](arguments)
            sys.stdout.flush()
    except KdbenchError as why:
        print(why, file=sys.stderr)
        return 1
    except KeyboardInterrupt as why:
        print(f"interrupted; {str(why) or GOES_ON}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as why:  # a traceback helps us, not the user
        what = f"{type(why).__name__}: {why}"
        print(f"a bug in kdbench: {what}; {_kept_traceback()}", file=sys.stderr)
        return 1
    return code


def _kept_traceback() -> str:
    text = f"kdbench {__version__}: {' '.join(sys.argv)}\n\n{traceback.format_exc()}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="kdbench-bug-", suffix=".txt", delete=False
        ) as file:
            file.write(text)
    except OSError:
        return text
    return f"please report it with {file.name}"


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def _store(arguments: Namespace) -> "Store":
    from kdbench.store import Store

    return Store.locate(arguments.root)


# --- studies ---------------------------------------------------------------------------------


def search(arguments: Namespace) -> int:
    """Searches until the study's budget is spent, then shows the front."""
    from kdbench.config import CodecList, load_any_study

    store = _store(arguments)
    config = load_any_study(arguments.study, overrides(arguments))
    if isinstance(config, CodecList):
        return _measure(config, store, arguments)
    from kdbench.report.live import watching
    from kdbench.search.launch import search as launch
    from kdbench.search.vain import in_vain

    with watching(store, config.name, config.trials, silent=arguments.json) as on_event:
        end = launch(
            config, store, storage=_storage(arguments), on_event=on_event, detach=arguments.detach
        )
    if end.ended is None:  # its workers go on
        return _status(store, config.name, arguments)
    if end.n_complete == 0 and end.ended in ("asks", "exhausted"):
        raise in_vain(config, store)
    if end.ended in ENDED:
        print(ENDED[end.ended], file=sys.stderr)
    return _show(store, config.name, all_trials=False, as_json=arguments.json)


def _measure(config: "CodecList", store: "Store", arguments: Namespace) -> int:
    """Measures the codecs that a study lists, then shows their tables."""
    from kdbench.codec_table import measure
    from kdbench.report.progress import counting

    measure(config, store, watch=lambda name: counting(name, silent=arguments.json))
    return _show(store, config.name, all_trials=False, as_json=arguments.json)


def worker(arguments: Namespace) -> int:
    """One process of a search that `search` began, here or on another machine."""
    if arguments.role == "measure":
        return _measure_for(arguments)
    if arguments.target is not None or arguments.device is not None:
        raise KdbenchError(
            "--as and --device are of `--role measure`; who trains has the study's device",
            fix="add `--role measure`, or leave them out",
        )
    from kdbench.search.interrupt import TimeUp
    from kdbench.search.slurm import back_into_queue
    from kdbench.search.worker import work

    store, storage = _store(arguments), _storage(arguments)
    try:
        ended = work(
            arguments.study,
            store,
            index=arguments.index,
            storage=storage,
            upload=arguments.upload,
        )
    except TimeUp:
        raise KeyboardInterrupt(back_into_queue()) from None
    print(f"study {arguments.study}: {ended}", file=sys.stderr)
    return 0


def collect(arguments: Namespace) -> int:
    """Makes the folders of trials that workers elsewhere uploaded, or compares them."""
    from kdbench.report.collected import (
        check_json,
        check_text,
        collected_json,
        collected_text,
    )
    from kdbench.report.text import width_here
    from kdbench.search.collect import collect as bring
    from kdbench.search.collect import disagreements

    store, study = _store(arguments), arguments.study
    url = _storage(arguments) or store.database_url(study)
    if arguments.check:
        problems = disagreements(study, store, url)
        if arguments.json:
            _print_json(check_json(study, problems))
        else:
            print(check_text(study, problems, width_here()), end="")
        return 1 if problems else 0
    done = bring(study, store, url)
    if arguments.json:
        _print_json(collected_json(done))
    else:
        print(collected_text(done, width_here()), end="")
    return 1 if done.problems else 0


def _measure_for(arguments: Namespace) -> int:
    """A device that measures what trainers elsewhere ask for."""
    if arguments.target is None or arguments.index is not None:
        raise KdbenchError(
            "a worker that measures needs the name that the study calls it by, and has no index",
            fix="`kdbench worker --role measure --study NAME --as TARGET`, with the study's "
            "`target:`",
        )
    from kdbench.search.target import serve

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    ended = serve(
        arguments.study,
        arguments.target,
        _store(arguments),
        storage=_storage(arguments),
        device=arguments.device,
        say=say,
    )
    say(f"study {arguments.study}: {ended}")
    return 0


def _storage(arguments: Namespace) -> str | None:
    """URL of the database; with a password from the environment only: `ps` shows arguments."""
    if arguments.storage is None:
        return os.environ.get("KDBENCH_STORAGE")
    from kdbench.search.storage import require_no_password

    require_no_password(arguments.storage)
    return str(arguments.storage)


def status(arguments: Namespace) -> int:
    """Who works on a study just now, how far it is, and how long it will take."""
    return _status(_store(arguments), arguments.study, arguments)


def _status(store: "Store", study: str, arguments: Namespace) -> int:
    from kdbench.report.standing_text import standing_json, standing_text
    from kdbench.report.text import width_here
    from kdbench.search.status import standing

    found = standing(store, study, _storage(arguments))
    if arguments.json:
        _print_json(standing_json(found))
    else:
        print(standing_text(found, width_here()), end="")
    return 0


def show(arguments: Namespace) -> int:
    """What a study found, from its files alone."""
    store = _store(arguments)
    return _show(store, arguments.study, all_trials=arguments.all, as_json=arguments.json)


def _show(store: "Store", study: str, *, all_trials: bool, as_json: bool) -> int:
    from kdbench.codec_table import is_codec_table, load_codec_table
    from kdbench.report.json_view import codec_table_json, study_json
    from kdbench.report.overview import overview
    from kdbench.report.tables import codec_table_text, show_text
    from kdbench.report.text import width_here

    if is_codec_table(store.load_study(study)):
        table = load_codec_table(store, study)
        if as_json:
            _print_json(codec_table_json(table))
        else:
            print(codec_table_text(table, width=width_here()), end="")
        return 0
    found = overview(store, study)
    if as_json:
        _print_json(study_json(found))
    else:
        print(show_text(found, all_trials=all_trials, width=width_here()), end="")
    return 0


def dashboard(arguments: Namespace) -> int:
    """A study in a browser, until it is interrupted."""
    from kdbench.dashboard import Door, serve

    store, study = _store(arguments), arguments.study

    def say(page: str) -> None:
        if arguments.json:
            _print_json({"study": study, "url": page, "read_only": not arguments.write})
        else:
            what = "notes can be written" if arguments.write else "read-only"
            print(f"study {study}: {page} ({what}; Ctrl-C ends it)")
        sys.stdout.flush()

    door = Door(
        port=arguments.port,
        host=arguments.host,
        exposed=arguments.i_know_it_has_no_login,
        write=arguments.write,
        open_page=arguments.open,
    )
    serve(store, study, _storage(arguments) or store.database_url(study), door, say)
    return 0


def report(arguments: Namespace) -> int:
    """A study, or two of them, as a page, tables or figures to keep."""
    from kdbench.report.render import IN_ONE_FILE, comparison, printed, subject, write
    from kdbench.report.text import width_here

    store = _store(arguments)
    kind = arguments.format or ("json" if arguments.json else "text")
    about = comparison(store, *arguments.compare) if arguments.compare else None
    about = about or subject(store, arguments.study)
    if arguments.out is None and kind in IN_ONE_FILE and kind != "html":
        print(printed(about, kind, width_here()), end="")
        return 0
    out = None if arguments.out is None else Path(arguments.out)
    paths = write(about, kind, out, width_here())
    if arguments.json:
        _print_json({"name": about.name, "format": kind, "files": [str(path) for path in paths]})
    else:
        print(f"{paths[0]}" + (f" and {len(paths) - 1} files beside it" if len(paths) > 1 else ""))
    return 0


def replay(arguments: Namespace) -> int:
    """Searches again among the finished trials of a study, on paper: samplers and ladders."""
    from kdbench.report.overview import overview
    from kdbench.report.progress import counting
    from kdbench.report.replays import replay_json, replay_text
    from kdbench.report.text import width_here
    from kdbench.search.recorded import recorded
    from kdbench.search.replay import policies
    from kdbench.search.replay import replay as simulated

    store, study, budget = _store(arguments), arguments.study, arguments.budget
    overview(store, study)  # refuses trials whose figures do not compare
    found = recorded(store, study)
    chosen = policies(found, arguments.samplers, arguments.etas, cost_first=arguments.cost_first)
    with counting("searches", silent=arguments.json) as count:
        outcomes = simulated(
            found.table, chosen, seeds=arguments.seeds, budget=budget, on_progress=count
        )
    what = (study, found.table, found.left_out, outcomes)
    if arguments.json:
        _print_json(replay_json(*what, budget=budget))
    else:
        print(replay_text(*what, budget=budget, width=width_here()), end="")
    return 0


def rerun(arguments: Namespace) -> int:
    """Trains stored specs again: as they were, from fresh seeds, or beside their twins."""
    from kdbench.report.text import width_here
    from kdbench.retrain import rerun as train_again

    document, text = train_again(_store(arguments), arguments)
    if arguments.json:
        _print_json(document())
    else:
        print(text(width_here()), end="")
    return 0


# --- codecs ----------------------------------------------------------------------------------


def bench(arguments: Namespace) -> int:
    """The figures of one codec on a folder of photos."""
    from kdbench.bench import against, bench_codec
    from kdbench.data import load_images
    from kdbench.device import resolve
    from kdbench.records import Bench, Data, EnergyPlan
    from kdbench.report.details import bench_text
    from kdbench.report.json_view import bench_json
    from kdbench.report.progress import counting
    from kdbench.report.text import width_here

    store = _store(arguments)
    with _photos_named_by("--images", "data.evaluation"):
        images = load_images(arguments.images, "evaluation")
    setting = Bench(
        data=Data(evaluation=arguments.images),
        anchor=ANCHOR,
        energy=EnergyPlan(meter="none" if arguments.no_energy else "auto"),
        device=resolve(arguments.device or "auto"),
        precision="fp32",
        threads=1,
        cache=str(store.cache),
    )
    with counting(arguments.codec, silent=arguments.json) as count:
        figures = bench_codec(arguments.codec, images, setting, store, on_progress=count)
    with counting(ANCHOR, silent=arguments.json) as count:
        comparison = against(ANCHOR, figures, images, setting, on_progress=count)
    skipped = [(skip.name, skip.why) for skip in images.skipped]
    if arguments.json:
        _print_json(bench_json(figures, skipped, comparison))
    else:
        print(bench_text(figures, skipped, comparison, width_here()), end="")
    return 0


def export(arguments: Namespace) -> int:
    """Writes a student as a package."""
    from kdbench.export import Wanted
    from kdbench.export import export as write_package
    from kdbench.report.package_text import package_text
    from kdbench.report.progress import counting
    from kdbench.report.text import width_here

    wanted = Wanted(
        licence=arguments.licence, onnx=arguments.onnx, deterministic=arguments.deterministic
    )
    with counting("files", silent=arguments.json) as count:
        card = write_package(
            _store(arguments),
            arguments.study,
            arguments.trial,
            Path(arguments.to),
            wanted,
            on_progress=count,
        )
    if arguments.json:
        _print_json(card)
    else:
        print(package_text(card, arguments.to, width_here()), end="")
    return 0


def encode(arguments: Namespace) -> int:
    """Writes a photo as a .kdb file."""
    from kdbench.coding import encode_file
    from kdbench.device import resolve

    coded = encode_file(
        Path(arguments.image),
        Path(arguments.file),
        arguments.codec,
        arguments.quality,
        store=_store(arguments),
        device=resolve(arguments.device or "cpu"),
        overwrite=arguments.force,
    )
    return _say_coded(coded, arguments)


def decode(arguments: Namespace) -> int:
    """Writes the image in a .kdb file."""
    from kdbench.coding import decode_file
    from kdbench.device import resolve

    coded = decode_file(
        Path(arguments.file),
        Path(arguments.image),
        arguments.codec,
        store=_store(arguments),
        device=resolve(arguments.device or "cpu"),
        original=None if arguments.original is None else Path(arguments.original),
        overwrite=arguments.force,
    )
    return _say_coded(coded, arguments)


def _say_coded(coded: "Coded", arguments: Namespace) -> int:
    from kdbench.report.coded import coded_json, coded_text

    if arguments.json:
        _print_json(coded_json(coded))
    else:
        print(coded_text(coded), end="")
    return 0


def measure(arguments: Namespace) -> int:
    """Energy and time of trained students again."""
    from kdbench.measure import measure_again
    from kdbench.report.measured import measured_json, measured_text
    from kdbench.report.overview import choose, overview
    from kdbench.report.progress import counting
    from kdbench.report.text import width_here

    store, study = _store(arguments), arguments.study
    known = overview(store, study)
    numbers = dict.fromkeys(n for each in arguments.trial for n in choose(known, each))
    trials = [store.load_trial(study, number) for number in numbers]
    with counting("trials", silent=arguments.json) as count:
        found = measure_again(store, study, trials, device=arguments.device, on_trial=count)
    if arguments.json:
        _print_json(measured_json(found, study))
    else:
        print(measured_text(found, width_here()), end="")
    return 0


@contextmanager
def _photos_named_by(flag: str, key: str) -> Iterator[None]:
    """Errors about photos that name the flag of this command instead of a study's key."""
    try:
        yield
    except DataError as why:
        raise DataError(why.problem, fix=why.fix.replace(key, flag)) from None


def teach(arguments: Namespace) -> int:
    """Trains a teacher; started again, it goes on from its checkpoint."""
    from kdbench.codecs.weights import read_card
    from kdbench.device import resolve
    from kdbench.records import Training
    from kdbench.report.progress import following
    from kdbench.teach import load_training_photos, planned
    from kdbench.teach import teach as train_teacher

    sources = arguments.images or ["builtin"]
    with _photos_named_by("--images", "data.train"):
        photos = load_training_photos(sources, arguments.crop)
    for skipped in photos.skipped:
        print(f"skipped {skipped.name}: {skipped.why}", file=sys.stderr)
    with following(arguments.name, silent=arguments.json) as follow:
        path = train_teacher(
            planned(
                arguments.start,
                len(arguments.rd_lambdas),
                width=arguments.width,
                latent=arguments.latent,
                hyper=arguments.hyper,
                prior=arguments.prior,
                context=arguments.context,
            ),
            Training(
                steps=arguments.steps,
                batch=arguments.batch,
                crop_px=arguments.crop,
                rd_lambdas=tuple(arguments.rd_lambdas),
                learning_rate=arguments.learning_rate,
            ),
            photos,
            out=Path(arguments.out or f"teachers/{arguments.name}.safetensors"),
            seed=arguments.seed,
            device=resolve(arguments.device or "auto"),
            card={"name": arguments.name, "sources": sources, "licence": arguments.licence},
            start=arguments.start,
            on_progress=follow,
        )
    if arguments.json:
        _print_json(read_card(path)[1])
    else:
        print(f"{path} is teacher:{arguments.name}; `kdbench doctor` reads its card")
    return 0


# --- files and machine -----------------------------------------------------------------------


def check(arguments: Namespace) -> int:
    """Every problem of every study and space file, or of a codec family."""
    if arguments.codec is not None:
        return _check_codec(arguments)
    from kdbench import recipes
    from kdbench.cards import teacher_coordinates
    from kdbench.check import check_files

    problems = check_files(arguments.files, teacher_coordinates())
    if arguments.json:
        _print_json({"problems": [asdict(problem) for problem in problems]})
    elif problems:
        print("\n".join(map(str, problems)))
    else:
        n = len(arguments.files) or sum(
            len(recipes.known(kind)) for kind in ("studies", "search_spaces")
        )
        print(f"{n} file{'' if n == 1 else 's'}, no problem")
    return 1 if problems else 0


def _check_codec(arguments: Namespace) -> int:
    from kdbench.conformance import CLAUSES, Verdict, try_codec

    if arguments.files:
        raise KdbenchError(
            f"check reads files or tries a codec, not both: {' '.join(arguments.files)}",
            fix="leave `--codec` or the names away",
        )

    def say(verdict: Verdict) -> None:
        if arguments.json:
            return
        if verdict.problem is None:
            print(f"ok      {verdict.clause}: {CLAUSES[verdict.clause][1]}", flush=True)
        else:
            problem = f"broken  {verdict.clause}: {verdict.problem}"
            print(f"{problem}\n          fix: {verdict.fix}", flush=True)

    verdicts = try_codec(arguments.codec, say)
    n_broken = sum(verdict.problem is not None for verdict in verdicts)
    untried = [clause for clause in CLAUSES if clause not in {v.clause for v in verdicts}]
    if arguments.json:
        _print_json(
            {
                "codec": arguments.codec,
                "clauses": [verdict._asdict() for verdict in verdicts],
                "not_tried": untried,
            }
        )
    else:
        rest = f", {len(untried)} not tried" if untried else ""
        print(f"codec {arguments.codec}: {len(verdicts)} clauses, {n_broken} broken{rest}")
    return 1 if n_broken else 0


def doctor(arguments: Namespace) -> int:
    """What this machine can run and measure, and why not the rest."""
    from kdbench.doctor import doctor_json, examine
    from kdbench.report.details import doctor_text
    from kdbench.report.text import width_here

    sections = examine(_store(arguments))
    if arguments.json:
        _print_json(doctor_json(sections))
    else:
        print(doctor_text(sections, width_here()), end="")
    return 0


FUNCTIONS: Mapping[str, Callable[[Namespace], int]] = {
    "search": search,
    "worker": worker,
    "collect": collect,
    "status": status,
    "show": show,
    "dashboard": dashboard,
    "report": report,
    "replay": replay,
    "rerun": rerun,
    "measure": measure,
    "export": export,
    "encode": encode,
    "decode": decode,
    "bench": bench,
    "teach": teach,
    "check": check,
    "doctor": doctor,
}
