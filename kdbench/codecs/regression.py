"""One layer solved for by ridge regression: given its inputs, the weights that give its outputs."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.codecs.transforms import SeparableConv, SeparableDeconv

RIDGE = 1e-3  # of the mean eigenvalue
MAX_ROWS = 16384  # positions that a solve needs; of more it sees those on a coarser grid
CHUNK = 32  # images at a time: bounds the memory of the unfolded inputs


@torch.no_grad()
def solve_conv(
    layer: nn.Conv2d, inputs: Tensor, outputs: Tensor, *, free_bias: bool = False
) -> None:
    """Sets weight and bias of `layer` in place.

    Args:
        layer: Any stride, "same" padding.
        inputs: (B, C_in, H, W).
        outputs: (B, C_out, H / stride, W / stride): what it should give.
        free_bias: Keeps the ridge off the bias, which else shrinks beside large inputs.
    """
    side, stride, grid = layer.kernel_size[0], layer.stride[0], grid_of(outputs)
    gram, cross = torch.zeros(()), torch.zeros(())
    for x, target in zip(torch.split(inputs, CHUNK), torch.split(outputs, CHUNK), strict=True):
        unfolded = functional.unfold(x, side, padding=side // 2, stride=stride * grid)
        patches = _with_one(unfolded.transpose(1, 2).flatten(0, 1))
        gram = gram + patches.T @ patches
        cross = cross + patches.T @ pixels(target[:, :, ::grid, ::grid])
    solution = _ridge(gram, cross, free_last=free_bias)
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(solution[-1])  # type: ignore[union-attr]


@torch.no_grad()
def solve_deconv(
    layer: nn.ConvTranspose2d, inputs: Tensor, outputs: Tensor, *, free_bias: bool = False
) -> None:
    """Sets weight and bias of the first output channels of `layer` in place.

    One solve for each of the S^2 output phases: output S m + p of a transposed convolution of
    stride S sees input m + s through tap k where s = (p + pad - k) / S is whole, s in -1, 0, 1. The
    phases share one bias, the mean of theirs.

    Args:
        layer: Up to 2.5 strides wide.
        inputs: (B, C_in, H, W).
        outputs: (B, n, S H, S W), n at most the layer's output channels.
        free_bias: Keeps the ridge off the bias, and solves for the weights again once the bias is
            what it is; phases would else rely on biases of their own.
    """
    n_in, n, side, stride = inputs.shape[1], outputs.shape[1], layer.kernel_size[0], layer.stride[0]
    pad, grid = int(layer.padding[0]), grid_of(inputs)
    patches = functional.unfold(inputs, 3, padding=1, stride=grid)
    rows = _with_one(patches.transpose(1, 2).flatten(0, 1))  # (n, C_in 9 + 1), 9 = (row, column)
    gram = rows.T @ rows
    at, one = torch.arange(n_in)[:, None] * 9, torch.tensor([len(gram) - 1])
    bias = torch.zeros(n)
    layer.weight[:, :n] = 0.0
    phases: list[tuple[list[tuple[int, int, int]], Tensor, Tensor]] = []
    for p in range(stride):
        for q in range(stride):
            taps = [
                (k, j, 3 * ((p + pad - k) // stride + 1) + (q + pad - j) // stride + 1)
                for k in range((p + pad) % stride, side, stride)
                for j in range((q + pad) % stride, side, stride)
            ]
            columns = torch.cat([(at + c).flatten() for _, _, c in taps])
            used = torch.cat([columns, one])
            target = pixels(outputs[:, :, p :: stride * grid, q :: stride * grid])
            cross = rows[:, used].T @ target
            solution = _ridge(gram[used][:, used], cross, free_last=free_bias)
            _write_taps(layer, taps, solution[:-1], n)
            bias += solution[-1] / stride**2
            phases.append((taps, columns, cross[:-1]))
    layer.bias[:n] = bias  # type: ignore[index]
    if free_bias:
        for taps, columns, cross in phases:
            rest = cross - gram[columns][:, one] * bias
            _write_taps(layer, taps, _ridge(gram[columns][:, columns], rest), n)


def _write_taps(
    layer: nn.ConvTranspose2d, taps: Sequence[tuple[int, int, int]], solution: Tensor, n: int
) -> None:
    """`solution` is (taps C_in, n), tap by tap."""
    for (k, j, _), block in zip(taps, torch.split(solution, layer.in_channels), strict=True):
        layer.weight[:, :n, k, j] = block


@torch.no_grad()
def solve_separable_conv(layer: SeparableConv, inputs: Tensor, outputs: Tensor) -> None:
    """Sets both parts of `layer` in place; arguments as of `solve_conv`.

    Of the solution for one full convolution, each output channel keeps its best product of
    channels and taps; its taps and bias are then solved for behind those channels.
    """
    across, along = cast(nn.Conv2d, layer[0]), cast(nn.Conv2d, layer[1])
    side, stride = along.kernel_size[0], along.stride[0]
    dense = nn.Conv2d(across.in_channels, along.out_channels, side, stride, side // 2)
    solve_conv(dense, inputs, outputs, free_bias=True)
    left, size, _ = torch.linalg.svd(dense.weight.flatten(2), full_matrices=False)
    across.weight.copy_((left[:, :, 0] * size[:, :1]).reshape(across.weight.shape))
    mixed = in_chunks(across, inputs)
    one = nn.Conv2d(1, 1, side, stride, side // 2)
    for i in range(along.out_channels):
        solve_conv(one, mixed[:, i : i + 1], outputs[:, i : i + 1], free_bias=True)
        along.weight[i] = one.weight[0]
        along.bias[i] = one.bias[0]  # type: ignore[index]


@torch.no_grad()
def solve_separable_deconv(layer: SeparableDeconv, inputs: Tensor, outputs: Tensor) -> None:
    """Sets both parts of `layer` in place, of the 1x1 the first output channels.

    Of the solution for one full transposed convolution, each input channel keeps its best kernel;
    the 1x1 is then solved for behind those. Arguments as of `solve_deconv`.
    """
    along, across = cast(nn.ConvTranspose2d, layer[0]), cast(nn.Conv2d, layer[1])
    n = outputs.shape[1]
    dense = nn.ConvTranspose2d(
        along.in_channels,
        n,
        along.kernel_size,  # type: ignore[arg-type]
        stride=along.stride,  # type: ignore[arg-type]
        padding=along.padding,  # type: ignore[arg-type]
        output_padding=along.output_padding,  # type: ignore[arg-type]
    )
    solve_deconv(dense, inputs, outputs, free_bias=True)
    _, _, kernels = torch.linalg.svd(dense.weight.flatten(2), full_matrices=False)
    along.weight.copy_(kernels[:, 0].reshape(along.weight.shape))
    first = nn.Conv2d(along.in_channels, n, 1)
    grid = grid_of(outputs) | 1  # odd, so that all phases are seen
    seen, wanted = (maps[:, :, ::grid, ::grid] for maps in (in_chunks(along, inputs), outputs))
    solve_conv(first, seen, wanted, free_bias=True)
    across.weight[:n] = first.weight
    across.bias[:n] = first.bias  # type: ignore[index,assignment]


@torch.no_grad()
def refine(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: Tensor, outputs: Tensor) -> None:
    """Likewise, in place, but the ridge draws towards the weights that `layer` has.

    Args:
        layer: See `solve_conv`, `solve_deconv`.
        inputs: What it will see.
        outputs: What it should give of that, in all its channels.
    """
    weight, bias = layer.weight.clone(), layer.bias.clone()  # type: ignore[union-attr]
    missing = outputs - in_chunks(layer, inputs)
    if isinstance(layer, nn.Conv2d):
        solve_conv(layer, inputs, missing)
    else:
        solve_deconv(layer, inputs, missing)
    layer.weight.add_(weight)
    layer.bias.add_(bias)  # type: ignore[union-attr]


def in_chunks(module: nn.Module, inputs: Tensor) -> Tensor:
    """What `module` gives of (B, C, H, W), a chunk at a time: bounds what it holds besides."""
    return torch.cat([module(chunk) for chunk in torch.split(inputs, CHUNK)])


def grid_of(maps: Tensor) -> int:
    """The step of a grid over the positions of (B, C, H, W) that keeps some `MAX_ROWS` of them."""
    return max(1, math.ceil(math.sqrt(maps[:, 0].numel() / MAX_ROWS)))


def pixels(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _ridge(gram: Tensor, cross: Tensor, *, free_last: bool = False) -> Tensor:
    """(d, d), (d, m) -> (d, m): the ridge solution, perhaps with no ridge on the last of d."""
    damping = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    if free_last:
        damping[-1, -1] = 0.0
    solution: Tensor = torch.linalg.solve(gram + damping, cross)
    return solution
