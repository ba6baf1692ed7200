"""A student's hyperprior from its teacher's: whole, or narrowed layer by layer.

Each narrow layer keeps the teacher's strongest channels and is solved (`codecs.regression`) for
what the teacher's layer gives there, from what the narrow layers before it really give: channel
pruning as in He et al. 2017 (arXiv 1707.06168), with energy in the place of their LASSO.
"""

import torch
from torch import Tensor, nn

from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.regression import solve_conv, solve_deconv
from kdbench.records import Hyper


def can_inherit(student: Hyper, teacher: Hyper) -> bool:
    """Whether a student's hyperprior can start as its teacher's, whole or narrowed."""
    return (
        student.prior == teacher.prior
        and student.width <= teacher.width
        and student.z_channels <= teacher.z_channels
    )


@torch.no_grad()
def inherit_hyperprior(
    student: Hyperprior, teacher: Hyperprior, y: Tensor, channels: Tensor
) -> None:
    """Sets h_a, h_s and the factorised prior of `student` in place.

    Args:
        student: See `can_inherit`.
        teacher: Frozen, eval mode.
        y: Gained latents of some hundred crops, (B, M_t, h, w).
        channels: The teacher's latent channel of each of the student's, (M_s,).
    """
    n, n_z = student.architecture.hyper.width, student.architecture.hyper.z_channels
    full = teacher.h_a[0](teacher.hyper_input(y))
    seen = predicted = channels  # of magnitudes, of scales
    if teacher.has_means:  # values come before magnitudes, scales before means
        seen = predicted = torch.cat([channels, channels + teacher.architecture.latent.channels])
    _select(student.h_a[0], teacher.h_a[0], seen, _strongest(n, full))
    own = student.h_a[0](student.hyper_input(y[:, channels]))
    for i in (2, 4):
        full, own = torch.relu(full), torch.relu(own)
        full = teacher.h_a[i](full)
        kept = _strongest(n if i == 2 else n_z, full)
        _solve(student.h_a[i], teacher.h_a[i], own, full[:, kept])
        own = student.h_a[i](own)
    _take_prior(student, teacher, kept)
    full, own = teacher.rounded_hyper_latent(full), student.rounded_hyper_latent(own)
    for i in (0, 2, 4):
        full = teacher.h_s[i](full)
        kept = predicted if i == 4 else _strongest(n, full)
        _solve(student.h_s[i], teacher.h_s[i], own, full[:, kept])
        full, own = torch.relu(full), torch.relu(student.h_s[i](own))


def _strongest(n: int, values: Tensor) -> Tensor:
    """The `n` channels of (B, C, h, w) with the most energy, ascending; all where C is n."""
    energy = values.square().mean((0, 2, 3))
    strongest: Tensor = energy.topk(n).indices
    return strongest.sort().values


def _select(own: nn.Module, teachers: nn.Module, channels: Tensor, kept: Tensor) -> None:
    own.weight.copy_(teachers.weight[kept][:, channels])  # type: ignore[operator,index]
    own.bias.copy_(teachers.bias[kept])  # type: ignore[operator,index]


def _solve(own: nn.Module, teachers: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """The teacher's layer itself where nothing was left out, else the solution."""
    if own.weight.shape == teachers.weight.shape:
        own.load_state_dict(teachers.state_dict())
    elif isinstance(own, nn.ConvTranspose2d):
        solve_deconv(own, inputs, outputs)
    elif isinstance(own, nn.Conv2d):
        solve_conv(own, inputs, outputs)


def _take_prior(student: Hyperprior, teacher: Hyperprior, kept: Tensor) -> None:
    prior = dict(teacher.entropy_bottleneck.named_parameters())
    for name, parameter in student.entropy_bottleneck.named_parameters():
        parameter.copy_(prior[name][kept])
