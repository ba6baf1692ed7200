"""A start in the teacher's latent coordinates, by least squares.

Distilling latents means something only where student and teacher share coordinates. A KLT start
(`codecs.start`) fixes a basis, but a trained teacher has left its own KLT, and a narrow student's
last layer can hold no more than 4 N of it. So two layers of a started student are solved for on
some hundred crops, with ridge regression:

    last of g_a     its own features -> the teacher's y          (all taps of the kernel)
    first of g_s    the teacher's decoded y -> the KLT features that the rest of g_s inverts

The gains are the teacher's, and so are its hyperprior (`codecs.inherit`) and its context, for they
read and predict the same latents. A student of one rate has no gains: its two layers take the
teacher's of that level. A student with fewer latents takes the teacher's strongest channels.
Nothing of this is distillation: a student whose weights are all 0 starts here too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.codecs.context import Context
from kdbench.codecs.fitting import fit_synthesis, is_written, solve
from kdbench.codecs.hyperprior import Hyperprior, quantised
from kdbench.codecs.inherit import can_inherit, inherit_hyperprior
from kdbench.codecs.narrow import LEAST_SHARE, can_narrow, narrow_analysis, narrow_synthesis
from kdbench.codecs.regression import in_chunks, solve_deconv
from kdbench.codecs.transforms import Separable


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
    least_share: float = LEAST_SHARE,
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
        least_share: Of the teacher's widths, from which on g_a and g_s are slices.
    """
    own, theirs = ((model.g_a, model.g_s) for model in (student, teacher))
    if can_narrow(own, theirs, least_share):
        _slice(student, teacher, crops=crops, y=y, levels=levels, channels=channels)
    else:
        _analysis_from(crops, y, student, teacher, channels)
        if is_written(decoder := student.architecture.decoder):
            _synthesis_from(_decoded(teacher, y, levels[-1])[:, channels], features, student)
        else:
            decoded = _decoded_in_turn(teacher, y, levels)[:, channels]
            fit_synthesis(student.g_s, decoder, decoded, crops)
    rows = torch.tensor(list(levels))
    if student.architecture.n_levels > 1:
        student.log_gain.copy_(_log(teacher, "log_gain", rows)[:, channels])
        student.log_inverse_gain.copy_(_log(teacher, "log_inverse_gain", rows)[:, channels])
    else:
        _fold_gains(student, teacher, levels[0], channels)
    if can_inherit(student.architecture.hyper, teacher.architecture.hyper):
        gained = torch.cat([y * teacher.gain(level) for level in levels])
        inherit_hyperprior(student, teacher, gained, channels)
    if isinstance(student.context, Context) and isinstance(teacher.context, Context):
        student.context.take(teacher.context, channels)


def _slice(
    student: Hyperprior,
    teacher: Hyperprior,
    *,
    crops: Tensor,
    y: Tensor,
    levels: Sequence[int],
    channels: Tensor,
) -> None:
    """Makes g_a and g_s slices of the teacher's; see `align`."""
    narrow_analysis(
        student.g_a,
        teacher.g_a,
        crops=crops,
        latents=y,
        importance=teacher.gain(levels[len(levels) // 2]),
        channels=channels,
    )
    decoded = _decoded_in_turn(teacher, y, levels)
    narrow_synthesis(student.g_s, teacher.g_s, decoded=decoded, crops=crops, channels=channels)


def _analysis_from(
    crops: Tensor, y: Tensor, student: Hyperprior, teacher: Hyperprior, channels: Tensor
) -> None:
    """Solves the last layer of g_a for `y`.

    Before a decoder that is fitted, a g_a of the teacher's own shape is taken over instead; before
    one that inverts a KLT that gave a student of widths 64 and 16 a loss 1.4 % higher
    (reports/LOG.md).
    """
    last: nn.Module = student.g_a[-1]
    plan = student.architecture
    if plan.encoder != teacher.architecture.encoder or is_written(plan.decoder):
        solve(last, in_chunks(student.g_a[:-1], crops), y[:, channels])
        return
    student.g_a[:-1].load_state_dict(teacher.g_a[:-1].state_dict())
    theirs = dict(teacher.g_a[-1].named_parameters())
    for name, own in last.named_parameters():
        own.copy_(theirs[name][channels])


def _synthesis_from(decoded: Tensor, features: Tensor, student: Hyperprior) -> None:
    """Solves the first layer of g_s from latents (B, M_s, h, w) to the KLT features."""
    decoder = student.architecture.decoder
    n = min(features.shape[1], decoder.width - (decoder.activation == "relu"))
    first: nn.ConvTranspose2d = student.g_s[0]  # type: ignore[assignment]
    lift = first.bias[:n].clone()  # type: ignore[index]
    solve_deconv(first, decoded, features[:, :n])
    first.bias[:n] += lift  # type: ignore[index]  # of a ReLU decoder


def _fold_gains(student: Hyperprior, teacher: Hyperprior, level: int, channels: Tensor) -> None:
    """Puts the gains of `level` into the last layer of g_a and the first of g_s."""
    m = teacher.architecture.latent.channels
    gains = (teacher.gain(level), teacher.inverse_gain(level))
    gain, inverse = (values.expand(1, m, 1, 1)[0, channels, :, :, None] for values in gains)
    last, first = student.g_a[-1], student.g_s[0]
    last = last[-1] if isinstance(last, Separable) else last
    first = first[0] if isinstance(first, Separable) else first
    last.weight.mul_(gain)  # type: ignore[operator]
    last.bias.mul_(gain.flatten())  # type: ignore[operator]
    first.weight.mul_(inverse)  # type: ignore[operator]


def _decoded_in_turn(teacher: Hyperprior, y: Tensor, levels: Sequence[int]) -> Tensor:
    """What the teacher's g_s is given for latents `y`, each at one of `levels`: all are seen."""
    decoded = torch.empty_like(y)
    for i, level in enumerate(levels):  # some are mostly noise
        decoded[i :: len(levels)] = _decoded(teacher, y[i :: len(levels)], level)
    return decoded


def _decoded(teacher: Hyperprior, y: Tensor, level: int) -> Tensor:
    """What the teacher's g_s is given for latents `y` at `level`."""
    gained = y * teacher.gain(level)
    z_hat = teacher.rounded_hyper_latent(teacher.hyper_latent(gained))
    means = teacher.coding_gaussians(gained, z_hat).means
    return quantised(gained, means) * teacher.inverse_gain(level)


def _log(teacher: Hyperprior, name: str, rows: Tensor) -> Tensor:
    values: Tensor = getattr(teacher, name)
    return values[rows]
