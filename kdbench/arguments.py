"""What can be said on the command line; standard library only, so that `--help` is instant."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

from kdbench import __version__
from kdbench.names import PLAIN_NAME

RD_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
LEARNED = "a package's folder, teacher:NAME, file:PATH or trial:STUDY/N"
CODECS = (
    "a package's folder, teacher:NAME, file:PATH, trial:STUDY/N, zoo:MODEL/QUALITY, jpeg, webp, "
    "jpeg2000 or avif"
)
EPILOG = "exit codes: 0 done, 1 a problem (its fix is on stderr), 2 wrong usage, 130 interrupted"


class _Parser(argparse.ArgumentParser):
    """Says where to look when the arguments make no sense."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n  fix: see `{self.prog} --help`\n")


def _unknown(command: str) -> str:
    near = get_close_matches(command, COMMANDS, n=len(COMMANDS), cutoff=0.0)
    return f"there is no command {command!r}; there are, nearest first: {', '.join(near)}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command; leaves with code 2 and a fix if they make no sense."""
    top = _Parser(prog="kdbench", description=_ABOUT, epilog=EPILOG, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"kdbench {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, (about, add) in COMMANDS.items():
        add(commands.add_parser(name, help=about, description=about, allow_abbrev=False))
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        top.error(_unknown(argv[0]))
    arguments = top.parse_args(argv)
    if arguments.command is None:
        top.print_help()
        top.exit(2)
    return arguments


_ABOUT = "Finds small image codecs by distillation, search and measured energy."


def overrides(arguments: argparse.Namespace) -> list[str]:
    """`--set` and the flags that override a key of the study file, as `key=value`."""
    flags = {
        "trials": arguments.trials,
        "timeout_s": arguments.timeout,
        "workers": arguments.workers,
        "seed": arguments.seed,
        "device": arguments.device,
        "launcher.name": arguments.launcher,
    }
    return [*arguments.set, *(f"{k}={v}" for k, v in flags.items() if v is not None)]


# --- options that several commands have ------------------------------------------------------


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--root", metavar="DIR", help="where results are (KDBENCH_ROOT, ./runs)")
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N")


def _study(command: argparse.ArgumentParser, about: str = "one that has begun") -> None:
    command.add_argument("--study", required=True, metavar="NAME", help=about)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


_positive.__name__ = "number"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


_count.__name__ = "whole number"


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


_count_or_none.__name__ = "whole number"


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


_share.__name__ = "number"


def _quality(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 1")
    return value


_quality.__name__ = "number"


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names with a comma between them")
    if twice := [word for word in words if words.count(word) > 1]:
        raise argparse.ArgumentTypeError(f"{twice[0]} is there twice")
    return words


def _etas(text: str) -> tuple[int | None, ...]:
    words = _words(text)
    for word in words:
        if word != "none" and not (word.isdecimal() and int(word) > 1):
            rule = "is neither none nor a whole number of at least 2"
            raise argparse.ArgumentTypeError(f"{word!r} {rule}")
    return tuple(None if word == "none" else int(word) for word in words)


def _name(text: str) -> str:
    if not PLAIN_NAME.fullmatch(text):
        rule = "has more than letters, digits, `-`, `_`, `.`, or more than 100 of them"
        raise argparse.ArgumentTypeError(f"{text!r} {rule}")
    return text


# --- one function a command ------------------------------------------------------------------


def _search(command: argparse.ArgumentParser) -> None:
    _study(command, "its name, or the path of its file")
    command.add_argument("--trials", type=_count, metavar="N", help="complete trials to stop at")
    command.add_argument("--timeout", type=_positive, metavar="S", help="begin no trial after S s")
    command.add_argument(
        "--workers",
        type=_count_or_none,
        metavar="N",
        help="processes (one a core); 0: only watch those of other machines",
    )
    command.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        help="who starts them: this machine, or Slurm (`--set launcher.partition=...`)",
    )
    command.add_argument(
        "--detach", action="store_true", help="leave them to Slurm and return at once"
    )
    command.add_argument("--seed", type=int, metavar="N", help="of sampler and trials")
    command.add_argument("--storage", metavar="URL", help="database (KDBENCH_STORAGE, or SQLite)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the study file: --set space.encoder.width=[16,32]",
    )
    _device(command)
    _common(command)


def _worker(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--index",
        type=int,
        metavar="I",
        help="its number, if it is free; the lowest free one by default",
    )
    command.add_argument("--storage", metavar="URL", help="database (KDBENCH_STORAGE)")
    command.add_argument(
        "--upload",
        action="store_true",
        help="work where the study's own root is not at hand: results go to the database",
    )
    command.add_argument(
        "--role",
        choices=("train", "measure"),
        default="train",
        help="measure: be the study's target device, which trains nothing (train)",
    )
    command.add_argument(
        "--as", dest="target", type=_name, metavar="TARGET", help="of --role measure: its name"
    )
    _device(command)
    _common(command)


def _collect(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--storage", metavar="URL", help="database (KDBENCH_STORAGE)")
    command.add_argument(
        "--check", action="store_true", help="say where database and folders disagree, nothing else"
    )
    _common(command)


def _show(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--all", action="store_true", help="every trial, with reasons")
    _common(command)


def _status(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument("--storage", metavar="URL", help="database (KDBENCH_STORAGE, or SQLite)")
    _common(command)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return value


_port.__name__ = "port"


def _dashboard(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--port", type=_port, default=8080, metavar="N", help="8080; 0 for any that is free"
    )
    command.add_argument("--open", action="store_true", help="show it in your browser")
    command.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="127.0.0.1")
    command.add_argument(
        "--i-know-it-has-no-login",
        action="store_true",
        help="let --host be an address that other machines can reach",
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--read-only",
        action="store_false",
        dest="write",
        default=False,
        help="nothing can be changed from the page (default)",
    )
    what.add_argument("--write", action="store_true", help="notes can be written, nothing else")
    command.add_argument("--storage", metavar="URL", help="database (KDBENCH_STORAGE, or SQLite)")
    _common(command)


def _report(command: argparse.ArgumentParser) -> None:
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", metavar="NAME", help="one that has begun")
    what.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two studies on one figure; refused unless they were measured alike",
    )
    command.add_argument(
        "--format",
        choices=("text", "html", "markdown", "latex", "csv", "json", "svg"),
        help="text by default; html is one page, markdown, latex and svg are folders",
    )
    command.add_argument(
        "--out",
        metavar="PATH",
        help="a file, or of markdown, latex and svg a folder; text, csv and json are printed and "
        "the others land in reports/NAME where nothing is named",
    )
    _common(command)


def _replay(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--samplers",
        type=_words,
        default=("tpe", "random", "nsga2"),
        metavar="LIST",
        help="tpe,random,nsga2 by default; nsga3, qmc, and gp, which takes a minute a search",
    )
    command.add_argument(
        "--etas",
        type=_etas,
        metavar="LIST",
        help="ladders: none,2,3 by default; none alone where the study has no rungs",
    )
    command.add_argument(
        "--cost-first",
        action="store_true",
        help="each policy once more, refusing candidates whose costs leave no hope of the front",
    )
    command.add_argument(
        "--seeds", type=_count, default=20, metavar="K", help="searches of each policy (20)"
    )
    command.add_argument(
        "--budget",
        type=_share,
        default=1.0,
        metavar="X",
        help="of a search, as a part of the seconds that all finished trials took (1)",
    )
    _common(command)


def _rerun(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--trial",
        default="best",
        metavar="N",
        help="a number; best: each on the front (default); best:OBJECTIVE; knee",
    )
    command.add_argument(
        "--seeds", type=_count, metavar="K", help="train K fresh seeds; with --twin, K each"
    )
    command.add_argument(
        "--twin", action="store_true", help="train it without distillation, too, and compare"
    )
    longer = command.add_mutually_exclusive_group()
    longer.add_argument("--steps", type=_count, metavar="N", help="train N steps instead")
    longer.add_argument(
        "--full", action="store_true", help="train as many steps as the study kd_pareto_long has"
    )
    command.add_argument(
        "--on", "--device", dest="device", metavar="NAME", help="auto, cpu, cuda or cuda:N"
    )
    _common(command)


def _teach(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", type=_name, metavar="NAME", help="studies say teacher:NAME")
    command.add_argument(
        "--images",
        action="append",
        metavar="DIR",
        help="a folder of photos, or `builtin` (default); may be given again",
    )
    command.add_argument("--steps", type=_count, default=100_000, metavar="N")
    command.add_argument("--width", type=_count, metavar="N", help="of both transforms (64)")
    command.add_argument("--latent", type=_count, metavar="M", help="channels of y (192)")
    command.add_argument("--hyper", type=_count, metavar="N", help="width (64)")
    command.add_argument(
        "--prior", choices=("scale", "mean_scale"), help="what h_s predicts (scale)"
    )
    command.add_argument(
        "--context",
        choices=("none", "checkerboard"),
        help="whether one half of the latent corrects scales and means of the other (none)",
    )
    command.add_argument(
        "--rd-lambdas",
        type=_positive,
        nargs="+",
        default=RD_LAMBDAS,
        metavar="X",
        help="one quality level each, ascending",
    )
    command.add_argument("--batch", type=_count, default=8, metavar="N")
    command.add_argument("--crop", type=_count, default=128, metavar="PX", help="a multiple of 64")
    command.add_argument("--learning-rate", type=_positive, default=1e-3, metavar="X")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument(
        "--start",
        metavar="CODEC",
        help="go on from the weights of teacher:NAME or file:PATH, a student's too, and be what it "
        "is where nothing else is told",
    )
    command.add_argument("--out", metavar="FILE", help="teachers/NAME.safetensors by default")
    command.add_argument("--licence", metavar="TEXT", help="of the weights, kept in the card")
    _device(command)
    command.add_argument("--json", action="store_true", help="the card on stdout")


def _bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("codec", metavar="CODEC", help=CODECS)
    command.add_argument("--images", default="builtin", metavar="DIR", help="photos (builtin)")
    command.add_argument("--no-energy", action="store_true", help="measure no energy")
    _device(command)
    _common(command)


def _export(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--trial", required=True, metavar="N", help="a number, best:OBJECTIVE or knee"
    )
    command.add_argument("--to", required=True, metavar="DIR", help="not there yet, or empty")
    command.add_argument("--licence", metavar="TEXT", help="of the weights, kept in the card")
    command.add_argument(
        "--onnx", action="store_true", help="its transforms too, checked in ONNX Runtime"
    )
    command.add_argument(
        "--deterministic",
        action="store_true",
        help="h_s in integers: files decode on every machine; says what it costs in bits",
    )
    _common(command)


def _encode(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", metavar="IMAGE", help="still, 8 bits a sample, opaque")
    command.add_argument("file", metavar="FILE.kdb", help="what to write")
    command.add_argument("--codec", required=True, metavar="CODEC", help=LEARNED)
    command.add_argument(
        "--quality",
        type=_quality,
        metavar="Q",
        help="0 (lowest trained level) to 1 (highest), or anything between (0.5)",
    )
    _coding(command)


def _decode(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE.kdb", help="what `encode` wrote")
    command.add_argument("image", metavar="IMAGE", help="what to write: .png, .ppm, .bmp, .tif")
    command.add_argument("--codec", required=True, metavar="CODEC", help=LEARNED)
    command.add_argument("--original", metavar="IMAGE", help="the photo, for PSNR")
    _coding(command)


def _coding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help="replace a file that is there")
    _device(command)
    _common(command)


def _measure(command: argparse.ArgumentParser) -> None:
    _study(command)
    command.add_argument(
        "--trial",
        nargs="+",
        default=["best"],
        metavar="N",
        help="numbers; best: each on the front (default); best:OBJECTIVE; knee",
    )
    _device(command)
    _common(command)


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="*", metavar="NAME", help="studies, spaces; all if none")
    command.add_argument(
        "--codec",
        metavar="NAME",
        help="try a codec family on the contract of learned codecs instead; hyperprior is ours",
    )
    command.add_argument("--json", action="store_true", help="one JSON document on stdout")


COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "search": ("search for small codecs until the study's budget is spent", _search),
    "status": ("who works on a study just now, how far it is, how long it takes", _status),
    "show": ("what a study found: its front, or all trials", _show),
    "dashboard": ("look at a study in a browser, live", _dashboard),
    "report": ("what a study found as a page, a paper's tables or a sheet", _report),
    "replay": ("compare samplers and ladders on the finished trials of a study", _replay),
    "rerun": ("train stored trials again and compare", _rerun),
    "measure": ("energy and time of trained students again, without training", _measure),
    "export": ("a student as a package that travels", _export),
    "encode": ("a photo to a .kdb file", _encode),
    "decode": ("a .kdb file to an image", _decode),
    "bench": ("one codec on a folder of photos", _bench),
    "teach": ("train a teacher from photos", _teach),
    "check": ("validate study and space files, or a codec family", _check),
    "doctor": ("what this machine can run and measure, and why not the rest", _common),
    "worker": ("one process of a search; `search` starts these", _worker),
    "collect": ("the folders of trials that workers elsewhere uploaded", _collect),
}
