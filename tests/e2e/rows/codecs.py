"""Codec files that are damaged, foreign or not there; codecs that nobody knows; wrong teaching."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, both, cut, data, nothing, pickled

GOOD, BAD = "teachers/default.safetensors", "bad.safetensors"
ON_PHOTOS = "--no-energy --images photos/evaluation"
AGAIN = "  fix: take the original file again"
TEACH = f"{AGAIN}, or train it anew with `kdbench teach`\n"
ONE_SAVE = f"{AGAIN}; header and weights must come from one save\n"
PICKLE = (
    f"{BAD} is a Python pickle (torch.save), which may run code when it is read\n"
    "  fix: convert it to safetensors where you trust it; kdbench never unpickles\n"
)
NO_FILE = (
    f"there is no codec file {BAD}\n"
    "  fix: `kdbench doctor` lists the teachers; `kdbench teach` trains one\n"
)
NO_TEACHER = (
    "there is no teacher 'teacher:defualt'\n  fix: use one of teacher:default, teacher:weak, "
    "teacher:mean_scale, teacher:small or file:PATH; `kdbench teach NAME` trains another\n"
)
DAMAGED = (
    f"{BAD} is damaged or no safetensors file: Error while deserializing header: [...]\n{TEACH}"
)
MISFIT = f"{BAD}: its weights do not fit the architecture its header names: "
TEACHER = "search --study quick --set space.distillation.teacher"


def torch_saved(folder: Path) -> None:
    """Writes what `torch.save` writes."""
    torch.save({"g_a.0.weight": torch.zeros(3)}, folder / BAD)


def foreign(folder: Path) -> None:
    """Writes a good safetensors file of something else."""
    save_file({"weight": torch.zeros(3)}, folder / BAD)


def changed(
    weights: Callable[[dict[str, Tensor]], object] = nothing,  # type: ignore[assignment]
    header: tuple[str, str] = ("", ""),
) -> Prepare:
    """Writes the good teacher with other weights, or with a word of its header replaced."""

    def write(folder: Path) -> None:
        with safe_open(folder / GOOD, "pt") as file:
            metadata = dict(file.metadata())
        old, new = header
        assert old in metadata["architecture"]
        metadata["architecture"] = metadata["architecture"].replace(old, new)
        tensors = load_file(folder / GOOD)
        weights(tensors)
        save_file(tensors, folder / BAD, metadata)

    return write


def file(broken: Prepare, answer: str) -> Row:
    """`bench` of a codec file."""
    return Row(broken=broken, command=f"bench file:{BAD} {ON_PHOTOS}", answer=answer)


def named(codec: str, problem: str, fix: str) -> Row:
    """`bench` of a codec that nobody knows."""
    return Row(command=f"bench {codec} {ON_PHOTOS}", answer=f"{problem}\n  fix: {fix}\n")


def taught(options: str, answer: str, broken: Prepare = nothing) -> Row:
    """`teach` with options that make no sense."""
    command = f"teach mine --steps 1 --images photos/train {options}"
    return Row(broken=broken, command=command, answer=answer)


ROWS = {
    "a codec file that is not there": file(nothing, NO_FILE),
    "an empty codec file": file(data(BAD, b""), DAMAGED),
    "a codec file whose header was cut": file(cut(GOOD, 100, to=BAD), DAMAGED),
    "a codec file whose weights were cut": file(cut(GOOD, 50_000, to=BAD), DAMAGED),
    "noise in place of a codec": file(data(BAD, b"nonsense" * 1000), DAMAGED),
    "a pickle in place of a codec": file(pickled(BAD), PICKLE),
    "a checkpoint of torch.save in place of a codec": file(torch_saved, PICKLE),
    "a safetensors file of something else": file(
        foreign,
        f"{BAD} is a safetensors file, but not of a kdbench codec (format None, expected "
        "'kdbench-codec-1')\n  fix: name a file that `kdbench teach` or `kdbench search` wrote\n",
    ),
    "a codec of another architecture than its header says": file(
        changed(header=('"channels":48', '"channels":56')),
        f"{MISFIT}size mismatch for [...]\n{ONE_SAVE}",
    ),
    "a codec without its first layer": file(
        changed(lambda tensors: tensors.pop("g_a.0.weight")),
        f'{MISFIT}Missing key(s) in state_dict: "g_a.0.weight".\n{ONE_SAVE}',
    ),
    "a codec whose header names no width": file(
        changed(header=('"encoder"', '"encodre"')),
        f"{BAD}: its header cannot be read: encoder: field required\n{AGAIN}\n",
    ),
    "a codec whose weights are NaN": file(
        changed(lambda tensors: tensors["g_a.0.weight"].fill_(torch.nan)),
        f"{BAD} holds weights that are no numbers (NaN or infinity)\n{TEACH}",
    ),
    "a codec that nobody knows": named(
        "jpg",
        "there is no codec 'jpg'",
        "use the folder of a package, teacher:NAME, file:PATH, trial:STUDY/N, zoo:MODEL/QUALITY, "
        "jpeg, jpeg2000, webp, avif",
    ),
    "a kind of codec that nobody knows": named(
        "onnx:elic",
        "there is no codec 'onnx:elic'",
        "use the folder of a package, teacher:NAME, file:PATH, trial:STUDY/N, [...]",
    ),
    "a teacher that nobody knows": Row(
        command=f"bench teacher:defualt {ON_PHOTOS}", answer=NO_TEACHER
    ),
    "a trial to bench without a number": named(
        "trial:tiny", "'trial:tiny' names no trial", "write trial:STUDY/NUMBER"
    ),
    "a trial to bench that is not there": named(
        "trial:tiny/99",
        "study 'tiny' has no trial 99",
        "`kdbench show --study tiny --all` lists its 6 trials",
    ),
    "a trial to bench without a student": named(
        "trial:tiny/2",
        "trial 2 of tiny has no trained student",
        "`kdbench show --study tiny` lists the trials that have",
    ),
    "a teacher of a study that is not there": Row(
        command=f"{TEACHER}=teacher:defualt", answer=NO_TEACHER
    ),
    "a damaged teacher of a study": Row(
        broken=cut(GOOD, 50_000, to=BAD), command=f"{TEACHER}=file:{BAD}", answer=DAMAGED
    ),
    "a pickle as a study's teacher": Row(
        broken=pickled(BAD), command=f"{TEACHER}=file:{BAD}", answer=PICKLE
    ),
    "a teacher without the levels of the study": Row(
        command=f"{TEACHER}=teacher:weak --set 'training.rd_lambdas=[0.0018,0.0035,0.0067,0.01,1]'",
        answer="teacher:weak has no level for rd_lambda 0.01, 1.0; it has 0.0018, 0.0035, 0.0067, "
        "0.013, 0.025\n  fix: choose `training.rd_lambdas` of the study among the teacher's\n",
    ),
    "a pickle as a study's anchor": Row(
        broken=pickled(BAD), command=f"search --study quick --set anchor=file:{BAD}", answer=PICKLE
    ),
    "an anchor that is not there": Row(
        command="search --study quick --set anchor=teacher:defualt", answer=NO_TEACHER
    ),
    "an anchor that has no student": Row(
        command="search --study quick --set anchor=trial:tiny/2",
        answer="trial 2 of tiny has no trained student\n"
        "  fix: `kdbench show --study tiny` lists the trials that have\n",
    ),
    "an anchor of a model a rate": Row(
        broken=both(
            data("runs/tiny/trials/1/student-0.safetensors", b""),
            data("runs/tiny/trials/1/student-1.safetensors", b""),
        ),
        command="search --study quick --set anchor=trial:tiny/1",
        answer="trial:tiny/1 has a model for each of 2 rates, and one file is needed\n"
        "  fix: name one of them, file:HERE/runs/tiny/trials/1/student-0.safetensors\n",
    ),
    "a teacher whose outputs do not fit": Row(
        command=f"{TEACHER}=teacher:default --set data.cache_gib=0.001",
        answer="the teacher's outputs on 64 crops need 0.00 GiB, more than `data.cache_gib` = "
        "0.001\n  fix: lower `data.crops` or raise `data.cache_gib`\n",
    ),
    "crops to teach with that cannot be halved six times": taught(
        "--crop 65",
        "crops of 65 px cannot be halved six times\n"
        "  fix: choose a multiple of 64, e.g. `--crop 128`\n",
    ),
    "levels to teach out of order": taught(
        "--crop 64 --rd-lambdas 0.02 0.01",
        "rd_lambdas 0.02, 0.01 do not ascend\n"
        "  fix: name each quality level once, smallest first\n",
    ),
    "a file in the way of a teacher": taught(
        "--crop 64 --out studies/quick.yaml/mine.safetensors",
        "studies/quick.yaml cannot be written: a file is where a folder should be\n"
        "  fix: name a file that can be written with `--out`\n",
    ),
    "a checkpoint that is none": taught(
        "--crop 64 --width 8 --hyper 8 --latent 16",
        "the checkpoint teachers/mine.checkpoint cannot be read: it is damaged, or no checkpoint "
        "of kdbench\n  fix: remove it; the training then starts again from its first step\n",
        data("teachers/mine.checkpoint", b"nonsense"),
    ),
    "a checkpoint that is a trap": taught(
        "--crop 64 --width 8 --hyper 8 --latent 16",
        "the checkpoint teachers/mine.checkpoint cannot be read: it is damaged, or no checkpoint "
        "of kdbench\n  fix: remove it; the training then starts again from its first step\n",
        pickled("teachers/mine.checkpoint"),
    ),
}
