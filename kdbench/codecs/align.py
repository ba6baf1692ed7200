"""A start in the teacher's latent coordinates, by least squares.

Distilling latents means something only where student and teacher share coordinates. A KLT start
(`codecs.start`) fixes a basis, but a trained teacher has left its own KLT, and a narrow student's
last layer can hold no more than 4 N of it. So two layers of a started student are solved for on
some hundred crops, with ridge regression:

    last of g_a     its own features -> the teacher's y          (all taps of the kernel)
    first of g_s    the teacher's decoded y -> the KLT features that the rest of g_s inverts

The gains are the teacher's. Its hyperprior is taken whole where the widths agree: it reads and
predicts the same latents. A student with fewer latents takes the teacher's strongest channels.
Nothing of this is distillation: a student whose weights are all 0 starts here too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.codecs.hyperprior import Hyperprior

RIDGE = 1e-3  # of the mean eigenvalue
CHUNK = 32  # crops at a time: bounds the memory of the unfolded features


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
    top = levels[-1]
    decoded = (y * teacher.gain(top)).round() * teacher.inverse_gain(top)
    _solve_conv(student.g_a, crops, y[:, channels])
    _solve_deconv(student, decoded[:, channels], features)
    rows = torch.tensor(list(levels))
    if student.architecture.n_levels > 1:
        student.log_gain.copy_(_log(teacher, "log_gain", rows)[:, channels])
        student.log_inverse_gain.copy_(_log(teacher, "log_inverse_gain", rows)[:, channels])
    if student.architecture.hyper == teacher.architecture.hyper:
        _take_hyperprior(student, teacher, channels)


def _log(teacher: Hyperprior, name: str, rows: Tensor) -> Tensor:
    values: Tensor = getattr(teacher, name)
    return values[rows]


def _ridge(gram: Tensor, cross: Tensor) -> Tensor:
    """(d, d), (d, m) -> (d, m): the ridge solution."""
    damping = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + damping, cross)
    return solution


def _solve_conv(g_a: nn.Sequential, crops: Tensor, y: Tensor) -> None:
    """Last layer of g_a: unfolded features and a one -> y."""
    layer: nn.Conv2d = g_a[-1]  # type: ignore[assignment]
    side, gram, cross = layer.kernel_size[0], torch.zeros(()), torch.zeros(())
    for x, target in zip(torch.split(crops, CHUNK), torch.split(y, CHUNK), strict=True):
        unfolded = functional.unfold(g_a[:-1](x), side, padding=side // 2, stride=2)
        patches = _with_one(unfolded.transpose(1, 2).flatten(0, 1))
        gram = gram + patches.T @ patches
        cross = cross + patches.T @ target.flatten(2).transpose(1, 2).flatten(0, 1)
    solution = _ridge(gram, cross)
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(solution[-1])  # type: ignore[union-attr]


def _solve_deconv(student: Hyperprior, decoded: Tensor, features: Tensor) -> None:
    """First layer of g_s: 3x3 patches of decoded latents -> features, one solve per output phase.

    Output 2m + p of a stride-2 transposed convolution sees input m + s through tap k where
    s = (p + pad - k) / 2 is whole, s in -1, 0, 1.
    """
    layer: nn.ConvTranspose2d = student.g_s[0]  # type: ignore[assignment]
    decoder = student.architecture.decoder
    n = min(features.shape[1], decoder.width - (decoder.activation == "relu"))
    n_in, side = decoded.shape[1], layer.kernel_size[0]
    pad = side // 2
    patches = functional.unfold(decoded, 3, padding=1)  # (B, M 9, h w), 9 = (s_row, s_column)
    inputs = _with_one(patches.transpose(1, 2).flatten(0, 1))
    gram = inputs.T @ inputs
    at = torch.arange(n_in)[:, None]
    bias = torch.zeros(n)
    layer.weight[:, :n] = 0.0
    for p in (0, 1):
        for q in (0, 1):
            target = features[:, :n, p::2, q::2].flatten(2).transpose(1, 2).flatten(0, 1)
            taps = [
                (k, j, 3 * (_shift(p, pad, k) + 1) + _shift(q, pad, j) + 1)
                for k in range((p + pad) % 2, side, 2)
                for j in range((q + pad) % 2, side, 2)
            ]
            columns = torch.cat([(at * 9 + c).flatten() for _, _, c in taps])
            used = torch.cat([columns, torch.tensor([len(gram) - 1])])
            solution = _ridge(gram[used][:, used], inputs[:, used].T @ target)
            for (k, j, _), block in zip(taps, torch.split(solution[:-1], n_in), strict=True):
                layer.weight[:, :n, k, j] = block
            bias += solution[-1] / 4
    layer.bias[:n] += bias  # type: ignore[index]  # on top of the lift of a ReLU decoder


def _shift(phase: int, pad: int, tap: int) -> int:
    return (phase + pad - tap) // 2


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _take_hyperprior(student: Hyperprior, teacher: Hyperprior, channels: Tensor) -> None:
    """h_a, h_s and the factorised prior, whole but for the latents that were not taken."""
    state = {k: v for k, v in teacher.state_dict().items() if k.startswith(("h_a", "h_s"))}
    state["h_a.0.weight"] = state["h_a.0.weight"][:, channels]
    for name in ("h_s.4.weight", "h_s.4.bias"):
        state[name] = state[name][channels]
    nn.Module.load_state_dict(student, state, strict=False)
    prior = dict(teacher.entropy_bottleneck.named_parameters())
    for name, parameter in student.entropy_bottleneck.named_parameters():
        parameter.copy_(prior[name])
