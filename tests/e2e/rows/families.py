"""Codec families and distortions: names that nobody brings, and what does not go together."""

from tests.e2e.rows.row import Row
from tests.support.desk import text

FIX = "  fix: correct what is listed; `kdbench check` reads every study and space file again\n"
SPACE = "search_spaces/lic.yaml"
NOBODY = "no installed package brings a codec family"
KNOWN = "known, nearest first: none; a package brings one by an entry point of the group"


def checked(content: str, *problems: str) -> Row:
    """`check` of a space that says this."""
    rest = "training: {learning_rate: 1.0e-3}\n"
    answer = "".join(f"{SPACE}:{problem}\n" for problem in problems)
    return Row(broken=text(SPACE, content + rest), command="check lic", answer=answer, stream="out")


def trained_for(overrides: str, problem: str) -> Row:
    """A search with these overrides."""
    return Row(command=f"search --study quick {overrides}", answer=f"--set: {problem}\n{FIX}")


ROWS = {
    "a codec family that nobody brings": Row(
        command="check --codec elic",
        answer=f"{NOBODY} 'elic'\n  fix: {KNOWN} kdbench.codecs\n",
    ),
    "a codec family and files to check": Row(
        command="check quick --codec hyperprior",
        answer="check reads files or tries a codec, not both: quick\n"
        "  fix: leave `--codec` or the names away\n",
    ),
    "a space of a codec family that nobody brings": checked(
        "codec: {family: elic, width: 16}\n",
        f"1: codec.family: got \"elic\"; {NOBODY} 'elic'; {KNOWN} kdbench.codecs",
    ),
    "a space of a codec family without its name": checked(
        "codec: {width: 16}\n", "1: codec.family: is missing"
    ),
    "a codec family that is no name": checked(
        "codec: {family: 3}\n", "1: codec.family: got 3; must be the name of a codec family"
    ),
    "a codec section that is no mapping": checked(
        "codec: elic\n", '1: codec: got "elic"; must be a mapping: family, and the family\'s axes'
    ),
    "a codec section that is empty": checked(
        "codec:\n", "1: codec: got null; must be a mapping: family, and the family's axes"
    ),
    "a space of two families": checked(
        "codec: {family: elic}\nlatent: {channels: 48}\n",
        f"1: codec.family: got \"elic\"; {NOBODY} 'elic'; {KNOWN} kdbench.codecs",
        "2: latent: belongs to hyperpriors; a space with `codec` has the axes of that family there",
    ),
    "a distortion that nobody knows": trained_for(
        "--set training.distortion=ms_ssim",
        "training.distortion: got \"ms_ssim\"; there is no metric 'ms_ssim'; known, nearest first: "
        "ms-ssim, mse; a package brings one by an entry point of the group kdbench.metrics",
    ),
    "crops too small for MS-SSIM": Row(
        command="search --study quick --set training.distortion=ms-ssim",
        answer="studies/quick.yaml:11: training.crop_px: got 64; must be at least 192 with "
        f"training.distortion ms-ssim, which needs 161 px a side\n{FIX}",
    ),
    "a teacher of the MSE for MS-SSIM": trained_for(
        "--set training.distortion=ms-ssim --set training.crop_px=192 "
        "--set space.distillation.teacher=teacher:default",
        "space.distillation.teacher: teacher:default was trained for mse, and the study trains for "
        "ms-ssim; take none, or a plugin:NAME that was trained for it",
    ),
}
