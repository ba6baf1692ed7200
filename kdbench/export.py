"""Writes a student as a package (see `package`): `kdbench export`."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import __version__
from kdbench.errors import CodecError, DataError, KdbenchError
from kdbench.files import write_atomic, write_json, writing
from kdbench.package import CARD, CODEC, FORMAT, KIND, README, SPEC
from kdbench.rd import bd_rate
from kdbench.records import SCHEMA, RDCurve, TrialResult, plain
from kdbench.report.json_view import bd_rate_json, complexity_json, energy_json, rd_json
from kdbench.report.overview import choose, overview
from kdbench.report.package_text import package_readme
from kdbench.rerun import recorded
from kdbench.store import Store, StoredTrial

if TYPE_CHECKING:
    from kdbench.codecs.learned import LearnedCodec

Json = dict[str, Any]
Count = Callable[[int, int], None]
ELSEWHERE = "name a folder that can be written with `--to`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a package is to hold beside the codec.

    Attributes:
        licence: Of the weights; None: nobody states one.
        onnx: Whether its transforms go with it.
        deterministic: Whether h_s and a context are rounded to integers.
    """

    licence: str | None = None
    onnx: bool = False
    deterministic: bool = False


def export(
    store: Store,
    study: str,
    which: str,
    folder: Path,
    wanted: Wanted,
    *,
    on_progress: Count = lambda done, n: None,
) -> Json:
    """Writes the package of one trial into `folder`, whole or not at all; gives its card.

    Args:
        store: Where the study is.
        study: Its name.
        which: A number, `best:OBJECTIVE` or `knee`; `best` where that is one trial.
        folder: Not there yet, or empty.
        wanted: What goes into it.
        on_progress: Told the files coded and their number, where `deterministic` measures.

    Raises:
        KdbenchError: No such trial, or several; a trial without result, or whose student is not
            the file its result names; `folder` is there or cannot be written.
    """
    from kdbench.codecs.weights import codec_identity, load_codec

    found = overview(store, study)
    trial = _only(store, study, choose(found, which))
    result, student = recorded(trial), _student(study, trial)
    _require_free(folder)
    if wanted.onnx:
        from kdbench.onnx_files import require_runtime

        require_runtime()
    model, _ = load_codec(student)
    data, curve, exact, costs = student.read_bytes(), result.rd, None, result.complexity
    with _whole(folder) as inside:
        if wanted.deterministic:
            from kdbench.complexity import measure_complexity

            model, data = _rounded(model, trial)
            write_atomic(inside / CODEC, data, elsewhere=ELSEWHERE)
            curve, exact = _measured(inside / CODEC, store, study, result, on_progress)
            costs = measure_complexity(model)
        else:
            write_atomic(inside / CODEC, data, elsewhere=ELSEWHERE)
        onnx = _onnx(model, inside) if wanted.onnx else {}
        card = _card(found.anchor_name, study, trial, result, curve)
        card |= {
            "sha": _sha(data),
            "identity": codec_identity(model).hex(),
            "licence": _licence(trial, wanted.licence, _training_photos(store, study)),
            "arithmetic": "integer" if model.has_integer_prior else "float",
            "deterministic": exact,
            "complexity": complexity_json(costs),
            "onnx": onnx,
        }
        write_json(inside / CARD, card, elsewhere=ELSEWHERE)
        spec = {"hash": trial.spec.hash, "spec": plain(trial.spec)}
        write_json(inside / SPEC, spec, elsewhere=ELSEWHERE)
        write_atomic(inside / README, package_readme(card).encode(), elsewhere=ELSEWHERE)
    return card


def _only(store: Store, study: str, numbers: list[int]) -> StoredTrial:
    if len(numbers) != 1:
        raise KdbenchError(
            f"--trial names {len(numbers)} trials: {', '.join(map(str, numbers))}",
            fix="a package is of one: name its number, best:OBJECTIVE or knee",
        )
    return store.load_trial(study, numbers[0])


def _student(study: str, trial: StoredTrial) -> Path:
    """The codec file of a complete trial, as it was when the trial ended."""
    from kdbench.anchor import recorded_students

    recorded(trial)
    if (n_models := len(trial.folder.students)) > 1:
        raise CodecError(
            f"trial {trial.number} of {study} has a model for each of {n_models} rates, and a "
            "package is one codec",
            fix="search with `training.rate: variable`, which gives one model for all rates",
        )
    paths = recorded_students(trial)
    if not paths:
        raise CodecError(
            f"trial {trial.number} of {study} has no trained student",
            fix="copy its folder whole, student.safetensors with it; or train it again with "
            f"`kdbench rerun --study {study} --trial {trial.number}`",
        )
    return paths[0]


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is there already", fix="name a folder that is not there, or an empty one"
        )


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when all went well."""
    inside = folder.absolute().with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with writing(folder, elsewhere=ELSEWHERE):
            shutil.rmtree(inside, ignore_errors=True)  # of an earlier process of this number
            inside.mkdir(parents=True)
            yield inside
            inside.replace(folder)
    finally:
        shutil.rmtree(inside, ignore_errors=True)


# --- the deterministic form ----------------------------------------------------------------------


def _rounded(model: "LearnedCodec", trial: StoredTrial) -> "tuple[LearnedCodec, bytes]":
    from kdbench.codecs.deterministic import with_integer_prior
    from kdbench.codecs.weights import codec_bytes
    from kdbench.data import load_images

    photos = load_images("builtin", "validation")
    exact = with_integer_prior(model, [photos.image(i) for i in range(photos.n)])
    return exact, codec_bytes(exact, {"spec": trial.spec})


def _measured(
    codec: Path, store: Store, study: str, result: TrialResult, on_progress: Count
) -> tuple[RDCurve, Json]:
    """Its curve on the study's evaluation photos, and what rounding costs in bits."""
    from kdbench.anchor import evaluate_by_name
    from kdbench.config import from_settings
    from kdbench.data import load_images

    config = from_settings(store.load_study(study).settings, f"study.json of {study}")
    photos = load_images(config.data.evaluation, "evaluation")
    curve = evaluate_by_name(
        f"file:{codec}", photos, device="cpu", store=store, on_progress=on_progress
    ).curve
    cost, why_not = None, None
    try:
        cost = bd_rate(curve, result.rd)
    except KdbenchError as why:  # a single rate, which is no curve; other photos
        why_not = why.problem
    return curve, {"bd_rate_against_float": bd_rate_json(cost), "why_no_bd_rate": why_not}


def _onnx(model: "LearnedCodec", inside: Path) -> Json:
    from kdbench.data import load_images
    from kdbench.onnx_files import write_onnx

    photo = load_images("builtin", "validation").image(0)
    checked = write_onnx(model, inside, photo[:384, :512])
    return {
        each.name: asdict(each) | {"sha": _sha((inside / each.name).read_bytes())}
        for each in checked
    }


# --- the card ------------------------------------------------------------------------------------


def _card(anchor: str, study: str, trial: StoredTrial, result: TrialResult, curve: RDCurve) -> Json:
    spec = trial.spec
    rd_lambdas = spec.training.rd_lambdas
    n = len(rd_lambdas)
    energy = trial.trained_energy or result.energy
    return {
        "kind": KIND,
        "format": FORMAT,
        "kdbench": __version__,
        "schema": SCHEMA,
        "protocol": result.protocol,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": study,
        "trial": trial.number,
        "spec_hash": spec.hash,
        "architecture": plain(spec.architecture),
        "levels": [
            {"level": i, "quality": i / (n - 1) if n > 1 else None, "rd_lambda": rd_lambda}
            for i, rd_lambda in enumerate(rd_lambdas)
        ],
        "rd": rd_json(curve),
        "images": list(curve.images),
        "bd_rate": bd_rate_json(result.bd_rate),
        "anchor": anchor,
        "energy": energy_json(energy),
        "energy_of": "trained" if trial.trained_energy else "started",
        "coding_s_per_mpx": {"encode": curve.encode_s_per_mpx, "decode": curve.decode_s_per_mpx},
        "training": {
            **plain(spec.training),
            "seed": spec.seed,
            "seconds": result.seconds.get("training"),
            "distillation": plain(spec.distillation),
            "stands_on": dict(spec.stands_on),
        },
        "environment": dict(result.environment),
    }


def _training_photos(store: Store, study: str) -> str:
    data = store.load_study(study).settings.get("data", {})
    return str(data.get("train", "builtin"))


def _licence(trial: StoredTrial, stated: str | None, photos: str) -> Json:
    """What is known: what was stated for the weights, the teacher's, and whose photos."""
    teacher = trial.spec.distillation.teacher
    return {
        "weights": stated,
        "teacher": teacher,
        "teacher_licence": _teacher_licence(teacher) if teacher else None,
        "photos": "built into kdbench, each under its own open licence (CREDITS.csv)"
        if photos == "builtin"
        else photos,
    }


def _teacher_licence(teacher: str) -> str | None:
    """As its card says; None where it says nothing, or is not here."""
    from kdbench.codecs.weights import read_card
    from kdbench.teacher import teacher_path

    if not teacher.startswith(("teacher:", "file:")):
        return None
    try:
        card: Mapping[str, Any] = read_card(teacher_path(teacher))[1]
    except KdbenchError:
        return None
    licence = card.get("licence")
    return None if licence is None else str(licence)
