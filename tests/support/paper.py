"""The paper's studies in small: built-in teachers, a few small photos, three steps."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from kdbench.data import load_images
from tests.support.desk import ROLES

PHOTOS = (
    "data.evaluation=photos/evaluation",
    "energy={meter: replay, window_s: 0.01, windows: 2}",
    "anchor=teacher:default",
)
TRAINING = (
    "data.train=builtin",
    "data.validation=photos/validation",
    "data.crops=128",
    "data.cache_gib=0.3",
    "training.steps=3",
    "training.batch=4",
    "training.crop_px=64",
    "space.training.learning_rate=1.0e-6",
    "workers=1",
    "trials=1",
)
DEFAULT = "space.distillation.teacher=teacher:default"
MATCHED = "space.distillation.guides=matched"
NARROW = "encoder.width: 16, decoder.width: 16, hyper.width: 16"
SMALL: Mapping[str, tuple[str, ...]] = {
    "paper_channels": (*TRAINING, DEFAULT, f"sampler.points=[{{{NARROW}}}]"),
    "paper_rate": (
        *TRAINING,
        MATCHED,
        "anchor=jpeg",  # a start lies below its teacher's qualities
        "space.distillation.teacher=[teacher:default, teacher:mean_scale]",
        "sampler.points=[{distillation.teacher: teacher:default}]",
    ),
    "paper_weights": (
        *TRAINING,
        DEFAULT,
        "sampler.points=[{distillation.latent: 0.4, distillation.output: 0.4, "
        "distillation.rd: 0.2}]",
        "space.encoder.width=16",
        "space.decoder.width=16",
    ),
    "paper_latent_kl": (*TRAINING, DEFAULT, f"sampler.points=[{{{NARROW}}}]"),
    "paper_hyper": (
        *TRAINING,
        DEFAULT,
        "sampler.points=[{distillation.latent: 0.2, distillation.hyper_latent: 0.2, "
        "distillation.output: 0.2}]",
        "space.encoder.width=16",
        "space.decoder.width=16",
    ),
    "paper_hybrid": (
        *TRAINING,
        MATCHED,
        "space.distillation.teacher={latent: teacher:default, hyper_latent: teacher:mean_scale, "
        "output: teacher:default}",
        "space.encoder.width=16",
        "space.decoder.width=16",
    ),
    "paper_autoencoder": (
        *TRAINING,
        DEFAULT,
        f"sampler.points=[{{{NARROW}, distillation.latent: 0, distillation.output: 0.4}}]",
    ),
    "paper_resources": ("codecs=[teacher:default, trial:paper_channels/0]",),
    "paper_codecs": (),
}
"""What `--set` makes of each study, beside `PHOTOS`; resources come after the channels."""


def make_photos(folder: Path, n: int = 2, width: int = 192, height: int = 128) -> None:
    """`folder`/ROLE: cuts of the built-in photos, as they are: the teachers know such."""
    for role in ROLES[1:]:
        (folder / role).mkdir(parents=True)
        photos = load_images("builtin", role)
        for i in range(n):
            cut = Image.fromarray(photos.image(i)[:height, :width])
            cut.save(folder / role / f"{i}.png")


def command(study: str) -> list[str]:
    """`kdbench search` of one of them."""
    sets = [part for override in (*PHOTOS, *SMALL[study]) for part in ("--set", override)]
    return ["search", "--study", study, *sets]
