"""One layer solved for by ridge regression: given its inputs, the weights that give its outputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional

RIDGE = 1e-3  # of the mean eigenvalue
CHUNK = 32  # images at a time: bounds the memory of the unfolded inputs


@torch.no_grad()
def solve_conv(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> None:
    """Sets weight and bias of `layer` in place.

    Args:
        layer: Any stride, "same" padding.
        inputs: (B, C_in, H, W).
        outputs: (B, C_out, H / stride, W / stride): what it should give.
    """
    side, stride = layer.kernel_size[0], layer.stride[0]
    gram, cross = torch.zeros(()), torch.zeros(())
    for x, target in zip(torch.split(inputs, CHUNK), torch.split(outputs, CHUNK), strict=True):
        unfolded = functional.unfold(x, side, padding=side // 2, stride=stride)
        patches = _with_one(unfolded.transpose(1, 2).flatten(0, 1))
        gram = gram + patches.T @ patches
        cross = cross + patches.T @ _pixels(target)
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
    patches = functional.unfold(inputs, 3, padding=1)  # (B, C_in 9, H W), 9 = (s_row, s_column)
    rows = _with_one(patches.transpose(1, 2).flatten(0, 1))
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
            target = _pixels(outputs[:, :, p::2, q::2])
            solution = _ridge(gram[used][:, used], rows[:, used].T @ target)
            for (k, j, _), block in zip(taps, torch.split(solution[:-1], n_in), strict=True):
                layer.weight[:, :n, k, j] = block
            bias += solution[-1] / 4
    layer.bias[:n] = bias  # type: ignore[index]


def _pixels(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _ridge(gram: Tensor, cross: Tensor) -> Tensor:
    """(d, d), (d, m) -> (d, m): the ridge solution."""
    damping = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + damping, cross)
    return solution
