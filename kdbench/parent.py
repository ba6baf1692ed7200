"""The trained codec that a study's students start as slices of, where it names one.

A student of half the teacher's width starts as a slice of it (`codecs.narrow`); a narrower one
would have too few of its channels. Of a student that was trained before under the same teacher, and
so has its latents, it can have enough. What that saves is in `reports/LOG.md`.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.narrow import can_narrow
from kdbench.errors import CodecError
from kdbench.teacher import Teacher, load_teacher

LEAST_SHARE = 0.75  # of the parent's widths, from which on a slice won (reports/LOG.md)
N_CROPS = 8  # on which latents are compared
FAR = 0.5  # mean squared difference of latents over the teacher's mean square


@lru_cache(maxsize=2)
def load_parent(name: str) -> Teacher:
    """The codec called `name`, `teacher:NAME` or `file:PATH`.

    Raises:
        CodecError: Unknown, damaged, or no hyperprior with a card.
    """
    return load_teacher(name)


def descends(student: Hyperprior, parent: Teacher) -> bool:
    """Whether `student` starts as a slice of `parent`: else it starts as if there were none."""
    own, theirs = ((model.g_a, model.g_s) for model in (student, parent.model))
    return student.architecture.latent.channels <= parent.offer.channels and can_narrow(
        own, theirs, LEAST_SHARE
    )


@torch.no_grad()
def require_shared_coordinates(
    parent: Teacher, teachers: Iterable[object], crops: npt.NDArray[np.uint8]
) -> None:
    """A slice of `parent` is taught by latents that it nearly has.

    Args:
        parent: What students are slices of.
        teachers: Who teach latents; those that are no codecs of ours have coordinates of their own.
        crops: (n, 3, H, W), some of those that students see.

    Raises:
        CodecError: Its latents are not those of one of the teachers.
    """
    x = torch.from_numpy(np.array(crops[:N_CROPS])).float() / 255
    y = parent.model.g_a(x)
    for teacher in teachers:
        if not isinstance(teacher, Teacher):
            continue
        theirs = teacher.model.g_a(x)
        if y.shape != theirs.shape or (y - theirs).square().mean() > FAR * theirs.square().mean():
            raise CodecError(
                f"the latents of {parent.name} are not those of {teacher.name}: a student that "
                "starts as a slice of the one cannot be taught the other's",
                fix=f"set `start` to a codec that was trained under {teacher.name}, or leave it "
                "out",
            )
