"""One layer solved for by ridge regression: given its inputs, the weights that give its outputs."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

RIDGE = 1e-3  # of the mean eigenvalue
MAX_ROWS = 16384  # positions that a solve needs; of more it sees those on a coarser grid
CHUNK = 32  # images at a time: bounds the memory of the unfolded inputs


@torch.no_grad()
def solve_conv(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> None:
    """Sets weight and bias of `layer` in place.

    Args:
        layer: Any stride, "same" padding.
        inputs: (B, C_in, H, W).
        outputs: (B, C_out, H / stride, W / stride): what it should give.
    """
    side, stride, grid = layer.kernel_size[0], layer.stride[0], grid_of(outputs)
    gram, cross = torch.zeros(()), torch.zeros(())
    for x, target in zip(torch.split(inputs, CHUNK), torch.split(outputs, CHUNK), strict=True):
        unfolded = functional.unfold(x, side, padding=side // 2, stride=stride * grid)
        patches = _with_one(unfolded.transpose(1, 2).flatten(0, 1))
        gram = gram + patches.T @ patches
        cross = cross + patches.T @ pixels(target[:, :, ::grid, ::grid])
    solution = _ridge(gram, cross)
    layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(solution[-1])  # type: ignore[union-attr]


@torch.no_grad()
def solve_deconv(layer: nn.ConvTranspose2d, inputs: Tensor, outputs: Tensor) -> None:
    """Sets weight and bias of the first output channels of `layer` in place.

    One solve for each of the four output phases: output 2m + p of a stride-2 transposed convolution
    sees input m + s through tap k where s = (p + pad - k) / 2 is whole, s in -1, 0, 1.

    Args:
        layer: Stride 2, kernel 3 or 5.
        inputs: (B, C_in, H, W).
        outputs: (B, n, 2 H, 2 W), n at most the layer's output channels.
    """
    n_in, n, side = inputs.shape[1], outputs.shape[1], layer.kernel_size[0]
    pad = side // 2
    grid = grid_of(inputs)
    patches = functional.unfold(inputs, 3, padding=1, stride=grid)
    rows = _with_one(patches.transpose(1, 2).flatten(0, 1))  # (n, C_in 9 + 1), 9 = (row, column)
    gram = rows.T @ rows
    at = torch.arange(n_in)[:, None] * 9
    bias = torch.zeros(n)
    layer.weight[:, :n] = 0.0
    for p in (0, 1):
        for q in (0, 1):
            taps = [
                (k, j, 3 * ((p + pad - k) // 2 + 1) + (q + pad - j) // 2 + 1)
                for k in range((p + pad) % 2, side, 2)
                for j in range((q + pad) % 2, side, 2)
            ]
            columns = [(at + c).flatten() for _, _, c in taps]
            used = torch.cat([*columns, torch.tensor([len(gram) - 1])])
            target = pixels(outputs[:, :, p :: 2 * grid, q :: 2 * grid])
            solution = _ridge(gram[used][:, used], rows[:, used].T @ target)
            for (k, j, _), block in zip(taps, torch.split(solution[:-1], n_in), strict=True):
                layer.weight[:, :n, k, j] = block
            bias += solution[-1] / 4
    layer.bias[:n] = bias  # type: ignore[index]


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


def _ridge(gram: Tensor, cross: Tensor) -> Tensor:
    """(d, d), (d, m) -> (d, m): the ridge solution."""
    damping = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + damping, cross)
    return solution
