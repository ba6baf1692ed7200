"""A start in the teacher's latent coordinates, by least squares.

Distilling latents means something only where student and teacher share coordinates. A KLT start
(`codecs.start`) fixes a basis, but a trained teacher has left its own KLT, and a narrow student's
last layer can hold no more than 4 N of it. So two layers of a started student are solved for on
some hundred crops, with ridge regression:

    last of g_a     its own features -> the teacher's y          (all taps of the kernel)
    first of g_s    the teacher's decoded y -> the KLT features that the rest of g_s inverts
                    (of two layers, or separable: every layer, `codecs.fitting`)

The gains are the teacher's, and so is its hyperprior (`codecs.inherit`), for it reads and predicts
the same latents. A student of one rate has no gains: its two layers take the teacher's of that
level. A student with fewer latents takes the teacher's strongest channels.
An encoder of the teacher's own shape is taken over whole.
Nothing of this is distillation: a student whose weights are all 0 starts here too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.codecs.fitting import fit_synthesis, is_written, solve
from kdbench.codecs.hyperprior import Hyperprior, quantised
from kdbench.codecs.inherit import can_inherit, inherit_hyperprior
from kdbench.codecs.regression import solve_deconv

CHUNK = 32  # crops at a time through g_a: bounds the memory of its first layer


def strongest_channels(teacher: Hyperprior, y: Tensor, level: int, n: int) -> Tensor:
    """The `n` teacher channels with the largest gained deviation, ascending (n,)."""
    gained = (y * teacher.gain(level)).transpose(0, 1).flatten(1).std(1)
    strongest: Tensor = gained.topk(min(n, len(gained))).indices
    return strongest.sort().values


@torch.no_grad()
def align(
    student: Hyperprior,
    teacher: Hyperprior,
    *,
    crops: Tensor,
    y: Tensor,
    features: Tensor,
    levels: Sequence[int],
    channels: Tensor,
) -> None:
    """Moves a KLT-started `student` into the teacher's coordinates, in place.

    Args:
        student: After `klt_start`.
        teacher: Frozen, eval mode.
        crops: (B, 3, H, W) in [0, 1].
        y: The teacher's latents of `crops` before the gain, (B, M_t, h, w).
        features: KLT coefficients of `crops` after three layers, (B, C, 2h, 2w), of `klt_start`.
        levels: The teacher's level for each of the student's.
        channels: The teacher's channels the student takes, (M_s,).
    """
    decoded = _decoded(teacher, y, levels[-1])
    has_gains = student.architecture.n_levels > 1
    analysed = y if has_gains else y * teacher.gain(levels[-1])
    decoded = decoded if has_gains else decoded / teacher.inverse_gain(levels[-1])
    _align_analysis(student, teacher, crops, analysed, channels)
    decoder = student.architecture.decoder
    if not is_written(decoder):
        fit_synthesis(student.g_s, decoder, decoded[:, channels], crops)
    else:
        n = min(features.shape[1], decoder.width - (decoder.activation == "relu"))
        first: nn.ConvTranspose2d = student.g_s[0]  # type: ignore[assignment]
        lift = first.bias[:n].clone()  # type: ignore[index]
        solve_deconv(first, decoded[:, channels], features[:, :n])
        first.bias[:n] += lift  # type: ignore[index]  # of a ReLU decoder
    rows = torch.tensor(list(levels))
    if has_gains:
        student.log_gain.copy_(_log(teacher, "log_gain", rows)[:, channels])
        student.log_inverse_gain.copy_(_log(teacher, "log_inverse_gain", rows)[:, channels])
    if can_inherit(student.architecture.hyper, teacher.architecture.hyper):
        gained = torch.cat([y * teacher.gain(level) for level in levels])
        inherit_hyperprior(student, teacher, gained, channels)


def _align_analysis(
    student: Hyperprior, teacher: Hyperprior, crops: Tensor, y: Tensor, channels: Tensor
) -> None:
    """Makes g_a give `y` (B, M_t, h, w), as far as it can.

    One of the teacher's shape is taken over, except the last layer of a student of one rate, which
    has the gain in it. The last layer of any other is solved for.
    """
    last: nn.Module = student.g_a[-1]
    is_alike = student.architecture.encoder == teacher.architecture.encoder
    if is_alike:
        student.g_a[:-1].load_state_dict(teacher.g_a[:-1].state_dict())
    if is_alike and student.architecture.n_levels > 1:
        theirs = dict(teacher.g_a[-1].named_parameters())
        for name, own in last.named_parameters():
            own.copy_(theirs[name][channels])
        return
    features = torch.cat([student.g_a[:-1](x) for x in torch.split(crops, CHUNK)])
    solve(last, features, y[:, channels])


def _decoded(teacher: Hyperprior, y: Tensor, level: int) -> Tensor:
    """What the teacher's g_s is given for latents `y` at `level`."""
    gained = y * teacher.gain(level)
    z_hat = teacher.rounded_hyper_latent(teacher.hyper_latent(gained))
    return quantised(gained, teacher.gaussians(z_hat).means) * teacher.inverse_gain(level)


def _log(teacher: Hyperprior, name: str, rows: Tensor) -> Tensor:
    values: Tensor = getattr(teacher, name)
    return values[rows]
