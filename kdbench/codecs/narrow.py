"""A student's transform as a slice of its teacher's: some channels, and the others made up for.

Of each hidden layer those channels are kept that predict best, by least squares, what the next
layer needs of it, the last hidden layer first. Then, from the input on, each layer gets the
teacher's weights between kept channels, moved by ridge regression until it gives what the teacher's
gives, from what the layers before it really give: channel pruning as in He et al. 2017
(arXiv 1707.06168), with a greedy choice in the place of their LASSO. A GDN divides by a norm over
all channels,

    norm_i = beta_i + sum_j gamma_ij x_j^2

so to beta and gamma of the kept ones is added, by least squares and never less than nothing, what
is missing of that norm.

A student is a slice in both transforms or in neither (`can_narrow`): behind a sliced g_a a g_s that
starts as a KLT learns more slowly than behind a KLT, and a quarter of the channels is too few
(`benchmarks/inherit.py`, `reports/LOG.md`).
"""

import math
from collections.abc import Sequence

import torch
from compressai.layers import GDN
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional

from kdbench.codecs.regression import RIDGE, grid_of, in_chunks, pixels, refine

LEAST_SHARE = 0.5  # of the teacher's width
N_CROPS = 32  # that show which channels are needed, and all layers but the last of an analysis
N_NORMS = 4096  # positions that a norm is solved for at
REACH = 3  # taps a side that the choice of channels looks at
JITTER = 1e-9  # of the mean eigenvalue: keeps a norm's equations regular


def can_narrow(
    own: Sequence[nn.Sequential], theirs: Sequence[nn.Sequential], least_share: float = LEAST_SHARE
) -> bool:
    """Whether a student's transforms start as slices of its teacher's, `(g_a, g_s)` each.

    They do where all alternate plain (transposed) convolutions with GDNs, a student's of the
    teacher's kernels and strides, and where each hidden layer has as many channels as the
    teacher's, or fewer, but not less than `least_share` of them.
    """
    return all(_is_slice(*pair, least_share) for pair in zip(own, theirs, strict=True))


def _is_slice(own: nn.Sequential, theirs: nn.Sequential, least_share: float) -> bool:
    layers = _fixed(own)
    if layers != _fixed(theirs) or None in layers:
        return False
    pairs = zip(_widths(own), _widths(theirs), strict=True)
    return all(least_share * full <= width <= full for width, full in pairs)


def _fixed(part: nn.Sequential) -> list[object]:
    """What a slice leaves as it is, of each layer; None of a layer that cannot be sliced."""
    found: list[object] = []
    for i, layer in enumerate(part):
        shape: tuple[object, ...] | None = None
        if i % 2 == 0 and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups == 1:
            shape = (type(layer), layer.kernel_size, layer.stride, layer.padding)
        elif i % 2 == 1 and isinstance(layer, GDN):
            shape = (GDN, layer.inverse)
        found.append(shape)
    return found


def _widths(part: nn.Sequential) -> list[int]:
    return [len(layer.bias) for layer in part[:-1:2]]  # type: ignore[arg-type]


@torch.no_grad()
def narrow_analysis(
    own: nn.Sequential,
    theirs: nn.Sequential,
    *,
    crops: Tensor,
    latents: Tensor,
    importance: Tensor,
    channels: Tensor,
) -> None:
    """Sets a student's g_a in place.

    Args:
        own: See `can_narrow`.
        theirs: The teacher's.
        crops: (B, 3, H, W) in [0, 1].
        latents: What `theirs` gives of them, (B, M_t, h, w).
        importance: Of each latent channel where hidden ones are chosen, (M_t, 1, 1): the gain.
        channels: The teacher's channels the student takes, (M_s,).
    """
    some = crops[:N_CROPS]
    seen, _ = _narrow_hidden(own, theirs, some, torch.arange(crops.shape[1]), importance)
    _take(own[-1], theirs[-1], seen, channels)
    if _widths(own) != _widths(theirs):
        features = torch.cat([own[:-1](chunk) for chunk in torch.split(crops, N_CROPS)])
        refine(own[-1], features, latents[:, channels])  # type: ignore[arg-type]


@torch.no_grad()
def narrow_synthesis(
    own: nn.Sequential,
    theirs: nn.Sequential,
    *,
    decoded: Tensor,
    crops: Tensor,
    channels: Tensor,
) -> None:
    """Sets a student's g_s in place; the last layer is solved for the photo itself.

    Args:
        own: See `can_narrow`.
        theirs: The teacher's.
        decoded: What it is given of `crops`, (B, M_t, h, w).
        crops: (B, 3, H, W) in [0, 1].
        channels: The teacher's channels the student takes, (M_s,).
    """
    some = decoded[:N_CROPS]
    seen, features = _narrow_hidden(own, theirs, some, channels, torch.ones(()))
    _take(own[-1], theirs[-1], seen, torch.arange(crops.shape[1]))
    if _widths(own) != _widths(theirs) or len(channels) < decoded.shape[1]:
        refine(own[-1], features, crops[:N_CROPS])  # type: ignore[arg-type]


def _narrow_hidden(
    own: nn.Sequential, theirs: nn.Sequential, x: Tensor, seen: Tensor, importance: Tensor
) -> tuple[Tensor, Tensor]:
    """Sets all layers of `own` but the last in place.

    Args:
        own: See `can_narrow`.
        theirs: The teacher's.
        x: Its input.
        seen: The channels of it that the student has.
        importance: Of the channels that `theirs` gives.

    Returns:
        The teacher's channels that the last hidden layer keeps, and what it gives, of `x`.
    """
    before, after, h = [], [], x
    for layer, activation in zip(theirs[:-1:2], theirs[1::2], strict=True):
        before.append(in_chunks(layer, h))
        after.append(h := in_chunks(activation, before[-1]))
    kept = _needed(theirs, before, after, in_chunks(theirs[-1], h) * importance, _widths(own))
    is_whole, h = len(seen) == x.shape[1], x[:, seen]
    for i, channels in enumerate(kept):
        layer, activation = own[2 * i], own[2 * i + 1]
        _take(layer, theirs[2 * i], seen, channels)
        if not is_whole:
            refine(layer, h, before[i][:, channels])  # type: ignore[arg-type]
        h = in_chunks(layer, h)
        _rescale(activation, theirs[2 * i + 1], channels, h, before[i])
        h = in_chunks(activation, h)
        is_whole = is_whole and len(channels) == before[i].shape[1]
        seen = channels
    return seen, h


def _needed(
    theirs: nn.Sequential,
    before: list[Tensor],
    after: list[Tensor],
    wanted: Tensor,
    widths: list[int],
) -> list[Tensor]:
    """The channels to keep of each hidden layer, given what is `wanted` of the last layer.

    A layer's outputs count as much as they are multiplied by in the activation behind them.
    """
    kept: list[Tensor] = []
    for i in reversed(range(len(widths))):
        kept.insert(0, best_channels(theirs[2 * i + 2], after[i], wanted, widths[i]))
        energies = [maps.square().mean((0, 2, 3))[:, None, None] for maps in (after[i], before[i])]
        wanted = (before[i] * (energies[0] / energies[1]).sqrt())[:, kept[0]]
    return kept


@torch.no_grad()
def best_channels(layer: nn.Module, inputs: Tensor, outputs: Tensor, n: int) -> Tensor:
    """The `n` channels of `inputs` from which least squares best predicts `outputs`, ascending.

    Greedy: always the one that, with its `REACH` x `REACH` neighbours, explains most of what the
    ones before it left unexplained.

    Args:
        layer: The convolution of stride 2 in between, transposed or not.
        inputs: (B, C, H, W).
        outputs: (B, m, H / 2, W / 2), or (B, m, 2 H, 2 W) behind a transposed one.
        n: At most C.
    """
    n_all, taps, step = inputs.shape[1], REACH**2, 2
    if n == n_all:
        return torch.arange(n)
    if isinstance(layer, nn.ConvTranspose2d):
        outputs, step = functional.pixel_unshuffle(outputs, 2), 1
    grid = grid_of(outputs)
    unfolded = functional.unfold(inputs, REACH, padding=REACH // 2, stride=step * grid)
    rows, targets = unfolded.transpose(1, 2).flatten(0, 1), pixels(outputs[..., ::grid, ::grid])
    rows, targets = rows - rows.mean(0), targets - targets.mean(0)
    gram, cross = (rows.T @ rows).double(), (rows.T @ targets).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    left = list(range(n_all))
    for _ in range(n):
        blocks = gram.reshape(len(left), taps, len(left), taps).diagonal(dim1=0, dim2=2)
        roots = torch.linalg.cholesky(blocks.permute(2, 0, 1))
        per_channel = cross.reshape(len(left), taps, -1)
        explained = torch.linalg.solve_triangular(roots, per_channel, upper=False)
        best = int(explained.square().sum((1, 2)).argmax())
        at = torch.arange(len(gram))
        mine, others = at[at // taps == best], at[at // taps != best]
        shared = torch.linalg.solve_triangular(roots[best], gram[mine][:, others], upper=False)
        gram = gram[others][:, others] - shared.T @ shared
        cross = cross[others] - shared.T @ explained[best]
        del left[best]
    return torch.tensor(sorted(set(range(n_all)) - set(left)))


def _take(own: nn.Module, theirs: nn.Module, seen: Tensor, kept: Tensor) -> None:
    """The teacher's weights from channels `seen` to channels `kept`."""
    weight: Tensor = theirs.weight  # type: ignore[assignment]
    is_transposed = isinstance(own, nn.ConvTranspose2d)
    weight = weight[seen][:, kept] if is_transposed else weight[kept][:, seen]
    own.weight.copy_(weight)  # type: ignore[operator]
    own.bias.copy_(theirs.bias[kept])  # type: ignore[operator,index]


def _rescale(own: GDN, theirs: GDN, kept: Tensor, x: Tensor, full: Tensor) -> None:
    """Sets beta and gamma of `own`, in place, so that it divides as `theirs` does.

    The least squares are those of the norm's relative error. Only added to the teacher's own, they
    leave no beta near 0, behind which a GDN multiplies small values by thousands.

    Args:
        own: Of the kept channels.
        theirs: Of all.
        kept: Which these are, ascending.
        x: What `own` sees, (B, n, H, W).
        full: What `theirs` sees of the same crops, (B, C, H, W).
    """
    if len(kept) == full.shape[1]:
        own.load_state_dict(theirs.state_dict())
        return
    every = math.ceil(full[:, 0].numel() / N_NORMS) | 1  # odd: the columns of a map take turns
    x, full = pixels(x)[::every].double(), pixels(full)[::every].double()
    beta = theirs.beta_reparam(theirs.beta).double()[kept]
    gamma = theirs.gamma_reparam(theirs.gamma).double()[kept]
    norms = full.square() @ gamma.T + beta
    terms = torch.cat([torch.ones(len(x), 1), x.square()], 1)
    taken = torch.cat([beta[:, None], gamma[:, kept]], 1)
    missing = norms - terms @ taken.T
    added = [
        _non_negative(terms / norm[:, None], lost / norm)
        for norm, lost in zip(norms.T, missing.T, strict=True)
    ]
    solution = (taken + torch.stack(added)).float()
    own.beta.copy_(own.beta_reparam.init(solution[:, 0]))
    own.gamma.copy_(own.gamma_reparam.init(solution[:, 1:]))


def _non_negative(a: Tensor, b: Tensor) -> Tensor:
    """(rows, d), (rows,) -> (d,): least squares of a s = b with s >= 0, by the normal equations."""
    unit = a.square().mean(0).sqrt().clamp_min(1e-12)
    a = a / unit
    gram = a.T @ a
    gram.diagonal().add_(JITTER * gram.diagonal().mean())
    root = torch.linalg.cholesky(gram)
    right = torch.linalg.solve_triangular(root, (a.T @ b)[:, None], upper=False)[:, 0]
    solution, _ = nnls(root.T.numpy(), right.numpy(), maxiter=100 * len(right))
    return torch.from_numpy(solution) / unit
