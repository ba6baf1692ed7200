"""Teachers that are not ours: names that mean nothing, files that are not there or are others."""

from pathlib import Path

from kdbench.codecs.weights import codec_bytes, load_codec
from tests.e2e.rows.row import Row
from tests.support.desk import Prepare, data, nothing, pickled, text

FOLDER = "torch/hub/checkpoints"  # `here` sets TORCH_HOME
FILE = "mbt2018-mean-3-723404a8.pth.tar"
URL = f"https://compressai.s3.amazonaws.com/models/v1/{FILE}"
CURL = f"`curl --create-dirs -o HERE/{FOLDER}/{FILE} {URL}`"
MISSING = (
    f"zoo:mbt2018-mean/3 needs the file {FILE}, which is not in HERE/{FOLDER}\n"
    f"  fix: put it there where there is a network: {CURL}; TORCH_HOME names another folder; "
    "kdbench never downloads\n"
)
OTHER = (
    f"HERE/{FOLDER}/{FILE} is damaged or another file: its SHA-256 begins with [...], its name "
    f"says 723404a8\n  fix: take it again: {CURL}\n"
)
SPACE = "search_spaces/taught.yaml"
WIDE = """\
encoder: {width: 24, kernel: 3, activation: gdn}
decoder: {width: 24, kernel: 3, activation: gdn}
hyper: {width: 16}
latent: {channels: 48}
training: {learning_rate: 1.0e-3}
"""


def taught_by(teacher: str, answer: str, broken: Prepare = nothing) -> Row:
    """A study whose students have this teacher."""
    command = f"search --study quick --set space.distillation.teacher={teacher}"
    return Row(broken=broken, command=command, answer=answer)


def checked(distillation: str, problem: str) -> Row:
    """`check` of a space with these distillation settings."""
    space = f"{WIDE}distillation: {{{distillation}}}\n"
    answer = f"{SPACE}:6: distillation.{problem}\n"
    return Row(broken=text(SPACE, space), command="check taught", answer=answer, stream="out")


def promising(folder: Path) -> None:
    """The desk's teacher with a curve in its card that is not its own."""
    model, card = load_codec(folder / "teachers" / "default.safetensors")
    rd = [{"level": level, "bpp": 0.2, "psnr_db": 40.0} for level in range(5)]
    (folder / "bad.safetensors").write_bytes(codec_bytes(model, card | {"rd": rd}))


NOT_ITSELF = (
    "file:bad.safetensors is not what its card says: level 0 has [...] dB at [...] bpp here, "
    "40.00 dB at 0.2000 bpp there\n"
    "  fix: take the original file again, or train it anew with `kdbench teach`\n"
)
LOG = "HERE/runs/quick/workers/0.log"


ROWS = {
    "a teacher that is not what its card says": Row(
        broken=promising,
        command="search --study quick --set space.distillation.teacher=file:bad.safetensors "
        "--set data.evaluation=builtin",
        answer=f"every worker ended before the study did; worker 0 (code 1) said:\n{NOT_ITSELF}"
        f"  fix: see {LOG}; the same command goes on from what is finished\n",
    ),
    "a model of the zoo that nobody knows": taught_by(
        "zoo:mbt2018-men/3",
        "there is no zoo model 'mbt2018-men'\n  fix: known, nearest first: mbt2018-mean, mbt2018, "
        "bmshj2018-hyperprior, bmshj2018-factorized, cheng2020-attn, cheng2020-anchor\n",
    ),
    "a quality that the zoo does not have": taught_by(
        "zoo:cheng2020-anchor/8",
        "cheng2020-anchor has the qualities 1 to 6, not '8'\n  fix: write zoo:cheng2020-anchor/3 "
        "for one of them, zoo:cheng2020-anchor/1-6 for a range\n",
    ),
    "a file of the zoo that is not there": taught_by("zoo:mbt2018-mean/3", MISSING),
    "a range of the zoo of which a file is not there": taught_by("zoo:mbt2018-mean/3-4", MISSING),
    "noise in place of a file of the zoo": taught_by(
        "zoo:mbt2018-mean/3", OTHER, data(f"{FOLDER}/{FILE}", b"nonsense" * 1000)
    ),
    "a pickle in place of a file of the zoo": taught_by(
        "zoo:mbt2018-mean/3", OTHER, pickled(f"{FOLDER}/{FILE}")
    ),
    "a teacher that no package brings": taught_by(
        "plugin:vit",
        "no installed package brings a teacher 'vit'\n  fix: known, nearest first: none; a package "
        "brings one by an entry point of the group kdbench.teachers\n",
    ),
    "a kind of teacher that nobody knows": Row(
        command="search --study quick --set space.distillation.teacher=elic:4",
        answer='--set: space.distillation.teacher: got "elic:4"; must be teacher:NAME, file:PATH, '
        "zoo:MODEL/QUALITY, plugin:NAME or none\n  fix: correct what is listed; `kdbench check` "
        "reads every study and space file again\n",
    ),
    "a model of the zoo that nobody knows, to check": checked(
        "teacher: zoo:mbt2018-men/3",
        "teacher: there is no zoo model 'mbt2018-men'; known, nearest first: mbt2018-mean, mbt2018"
        "[...]",
    ),
    "a quality that the zoo does not have, to check": checked(
        "teacher: [zoo:mbt2018/5-9, none]",
        "teacher: mbt2018 has the qualities 1 to 8, not '5-9'; write zoo:mbt2018/3 for one of "
        "them, zoo:mbt2018/1-8 for a range",
    ),
    "an entropy term with a teacher of another width": checked(
        "teacher: zoo:mbt2018-mean/3, entropy: 0.1",
        "entropy: needs a latent.channels of 192 with hyper.prior mean_scale, the teacher's",
    ),
    "an entropy term with a teacher a rate": checked(
        "teacher: zoo:mbt2018-mean/1-4, entropy: 0.1",
        "entropy: needs a teacher of Gaussians that a student can share; a factorised prior has "
        "none, a context corrects them, and models of several rates each have their own",
    ),
    "a hyper-latent term with a teacher that has none": checked(
        "teacher: zoo:bmshj2018-factorized/3, hyper_latent: 0.1",
        "hyper_latent: needs a teacher with a hyper-latent; a factorised prior has none",
    ),
}
