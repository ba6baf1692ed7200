"""An h_s that computes in integers: the same scale indexes on every machine.

A float h_s sums in an order that processor, thread count and library choose; a scale that lies on
the border of two indexes then falls to either side, and the range decoder reads garbage. After
Balle, Johnston and Minnen 2019 (Integer Networks for Data Compression with Latent-Variable Models,
ICLR 2019) weights and activations here are integers, and so is every sum:

    x_0   = round(2^f_0 z_hat)
    s_i   = W_i x_i + b_i                         exact, in any order
    x_i+1 = clamp(floor(s_i 2^-e_i + 1/2))        0 to 2^22 - 1 where a ReLU follows
    sigma = 2^-14 x_n, mu likewise                24 bits: a float32 holds them as they are

The integers travel in float64, which processors and runtimes multiply fast: as long as no sum
reaches 2^52 (proved from the weights when a codec is built, whatever its input) each of its
operations is exact. Only multiplications, sums, floors and comparisons occur, no sine and no root.
Indexes come from comparing sigma with the table's float32 borders, which is exact, too; with means,
y_hat is the sum of two float32, which IEEE 754 rounds one way.

Each layer is a 3x3 convolution: a transposed one of 5x5 and stride 2 is the 3x3 one that gives its
four phases as channels. They are products of matrices (of the nine shifted maps), since ONNX
Runtime has no convolution of doubles.

A checkerboard context (`codecs.context`) is such a layer, too: what is decoded are integers anyway.

A trained float h_s is rounded, not trained again as in that paper: with weights of 16 bits and
activations of 22 there is nothing to win back (docs/method.md has the measured cost).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.codecs.context import KERNEL, Context, coded_first
from kdbench.errors import CodecError

WEIGHT_BITS, ACTIVATION_BITS = 16, 22
OUTPUT_BITS, OUTPUT_FRACTION_BITS = 24, 14  # sigma below 1024 (512 with mu), in steps of 2^-14
HEADROOM = 16.0  # activations beyond so many times the largest one of the photos are clamped
CONTEXT_BITS = 12  # by which a context's weights are finer than sigma and mu
CONTEXT_CHUNK = 16  # channels that it looks at together
LARGEST_RESIDUAL = 2.0**12  # that a context sees; larger ones are clamped
LARGEST_SUM = 2.0**52  # with a half added still exact in 53 bits


class IntegerLayer(nn.Module):
    """One 3x3 convolution of integers, (B, C, h, w) float64 -> (B, O, h, w) or twice as high.

    Attributes:
        weight: (O, 9 C) int32, or (4 O, 9 C) where four phases become one map.
        bias: int64, of each row.
        scale: 2^-e, float32.
        largest: What outputs are clamped to.
        is_rectified: Whether to 0 from below.
        upsamples: Whether the rows are phases.
    """

    def __init__(self, n_in: int, n_out: int, *, upsamples: bool, rectifies: bool, bits: int):
        super().__init__()
        rows = 4 * n_out if upsamples else n_out
        self.weight = _integers(rows, 9 * n_in, kind=torch.int32)
        self.bias = _integers(rows, kind=torch.int64)
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor
        self.largest = float(2 ** (bits - (0 if rectifies else 1)) - 1)
        self.is_rectified, self.upsamples = rectifies, upsamples

    def forward(self, x: Tensor) -> Tensor:
        """Exact, whatever computes it."""
        batch, _, height, width = x.shape
        padded = functional.pad(x, (1, 1, 1, 1))
        shifted = [
            padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)
        ]
        columns = torch.cat(shifted, 1).reshape(batch, -1, height * width)
        sums = torch.matmul(self.weight.double(), columns) + self.bias.double()[:, None]
        values = torch.floor(sums * self.scale.double() + 0.5)
        values = values.clamp(0.0 if self.is_rectified else -self.largest, self.largest)
        values = values.reshape(batch, -1, height, width)
        if not self.upsamples:
            return values
        phases = values.reshape(batch, -1, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return phases.reshape(batch, -1, 2 * height, 2 * width)

    def require_exact(self, largest_in: float) -> None:
        """Raises CodecError where some input up to `largest_in` could make a sum inexact."""
        sums = self.weight.double().abs().sum(1) * largest_in + self.bias.double().abs()
        if not float(sums.max()) < LARGEST_SUM or not 0 < float(self.scale) <= 1:
            raise CodecError(
                "the integer h_s could reach sums that a double does not hold exactly",
                fix="take the original file again; `kdbench export --deterministic` writes none "
                "such",
            )


class IntegerSynthesis(nn.Sequential):
    """h_s in integers: z_hat float32 (B, Z, h/4, w/4) -> sigma, or sigma and mu, (B, .., h, w)."""

    def __init__(self, z_channels: int, width: int, n_out: int, *, rectifies: bool) -> None:
        """Zeros.

        Args:
            z_channels: Of z.
            width: Between the layers.
            n_out: M, or 2 M with means.
            rectifies: Whether outputs are 0 at least: of scales alone.
        """
        super().__init__(
            IntegerLayer(z_channels, width, upsamples=True, rectifies=True, bits=ACTIVATION_BITS),
            IntegerLayer(width, width, upsamples=True, rectifies=True, bits=ACTIVATION_BITS),
            IntegerLayer(width, n_out, upsamples=False, rectifies=rectifies, bits=OUTPUT_BITS),
        )
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    def forward(self, z_hat: Tensor) -> Tensor:
        """As the float h_s, rounded."""
        largest = 2.0**ACTIVATION_BITS - 1
        x = torch.round(z_hat.double() * self.scale.double()).clamp(-largest, largest)
        for layer in self:
            x = layer(x)
        return (x * 2.0**-OUTPUT_FRACTION_BITS).float()

    def require_exact(self) -> None:
        """Raises CodecError where any input could make a sum inexact."""
        for layer in self:
            assert isinstance(layer, IntegerLayer)
            layer.require_exact(2.0**ACTIVATION_BITS)


class IntegerContext(nn.Module):
    """`Context` in integers: residuals, sigma and mu (B, M, h, w) float32 -> sigma and mu.

    Args:
        channels: M.

    Attributes:
        factor: Of sigma, (M,), in steps of 2^-`CONTEXT_BITS`; all are int64.
        to_scale: Of each tap that counts, (M, 12), in steps of 2^-(14 + `CONTEXT_BITS`).
        to_mean: Likewise.
        offset: Likewise, (M,).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        n_taps = len(_context_taps())
        self.factor, self.offset = (_integers(channels, kind=torch.int64) for _ in range(2))
        self.to_scale, self.to_mean = (
            _integers(channels, n_taps, kind=torch.int64) for _ in range(2)
        )

    def forward(self, residuals: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """As the float context, rounded; some channels at a time, for doubles take room."""
        maps = (torch.split(each, CONTEXT_CHUNK, 1) for each in (residuals, scales, means))
        weights = (self.factor, self.offset, self.to_scale, self.to_mean)
        own = (torch.split(each, CONTEXT_CHUNK) for each in weights)
        found = list(map(_corrected, zip(*maps, strict=True), zip(*own, strict=True)))
        sigmas, mus = zip(*found, strict=True)
        return torch.cat(sigmas, 1), torch.cat(mus, 1)

    def require_exact(self) -> None:
        """Raises CodecError where any input could make a sum inexact."""
        taps = [each.double().abs().sum(1) for each in (self.to_scale, self.to_mean)]
        factor, offset = self.factor.double().abs(), self.offset.double().abs()
        sums = torch.maximum(*taps) * LARGEST_RESIDUAL + factor * 2.0**OUTPUT_BITS + offset
        if not float(sums.max()) < LARGEST_SUM:
            raise CodecError(
                "the integer context could reach sums that a double does not hold exactly",
                fix="take the original file again; `kdbench export --deterministic` writes none "
                "such",
            )


def _context_taps() -> list[tuple[int, int]]:
    """Row and column of the taps that count."""
    places = [(row, column) for row in range(KERNEL) for column in range(KERNEL)]
    return [(row, column) for row, column in places if (row + column) % 2]


def _corrected(maps: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Scales and means of some channels, from residuals, scales and means."""
    residuals, scales, means = maps
    factor, offset, to_scale, to_mean = weights
    unit, finer = 2.0**OUTPUT_FRACTION_BITS, 2.0**-CONTEXT_BITS
    first = coded_first(residuals).double()
    seen = (residuals.double() * first).clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    sigma, mu = scales.double() * unit, means.double() * unit
    sums = factor.double()[:, None, None] * sigma + offset.double()[:, None, None]
    corrected = torch.floor((sums + _around(seen.abs(), to_scale)) * finer + 0.5)
    shift = torch.floor(_around(seen, to_mean) * finer + 0.5)
    largest = 2.0 ** (OUTPUT_BITS - 1) - 1
    sigma = first * sigma + (1 - first) * corrected.clamp(0.0, 2.0**OUTPUT_BITS - 1)
    mu = first * mu + (1 - first) * (mu + shift).clamp(-largest, largest)
    return (sigma / unit).float(), (mu / unit).float()


def _around(x: Tensor, weights: Tensor) -> Tensor:
    """Each channel's own weighted sum of the taps that count, (B, M, h, w) double."""
    height, width = x.shape[-2:]
    padded = functional.pad(x, (KERNEL // 2,) * 4)
    shifted = [
        padded[:, :, row : row + height, column : column + width] for row, column in _context_taps()
    ]
    columns = torch.stack(shifted, 2).flatten(3)
    return torch.matmul(weights.double()[:, None], columns).reshape(x.shape)


def _integers(*shape: int, kind: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=kind), requires_grad=False)


# --- from a float h_s ----------------------------------------------------------------------------


@torch.no_grad()
def fill(target: IntegerSynthesis, h_s: nn.Sequential, z_hats: Iterable[Tensor]) -> None:
    """Sets `target` to what `h_s` computes, rounded, in place.

    Args:
        target: Of the same widths.
        h_s: Trained.
        z_hats: Hyper-latents of photos, which say how large activations become.

    Raises:
        CodecError: Its widths are such that sums could not be exact.
    """
    layers = [m for m in h_s if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    peaks = _peaks(h_s, z_hats)
    fraction_bits = [_fraction_bits(peak) for peak in peaks[:-1]]
    target.scale.fill_(2.0 ** fraction_bits[0])
    outputs = [*fraction_bits[1:], OUTPUT_FRACTION_BITS]
    for integer, layer, f_in, f_out in zip(target, layers, fraction_bits, outputs, strict=True):
        assert isinstance(integer, IntegerLayer)
        kernels, bias = _as_3x3(layer)
        largest = max(float(kernels.abs().max()), 1e-6)
        w_bits = math.floor(math.log2((2**WEIGHT_BITS - 1) / largest))
        w_bits = max(w_bits, f_out - f_in)  # so that nothing is scaled up
        integer.weight.copy_((kernels * 2.0**w_bits).round().flatten(1))
        integer.bias.copy_((bias * 2.0 ** (w_bits + f_in)).round())
        integer.scale.fill_(2.0 ** (f_out - f_in - w_bits))
    target.require_exact()


@torch.no_grad()
def fill_context(target: IntegerContext, context: Context) -> None:
    """Sets `target` to what `context` computes, rounded, in place.

    Raises:
        CodecError: Its weights are such that sums could not be exact.
    """
    finest = 2.0 ** (OUTPUT_FRACTION_BITS + CONTEXT_BITS)
    taps = torch.tensor(_context_taps())
    target.factor.copy_((context.factor.double() * 2.0**CONTEXT_BITS).round())
    target.offset.copy_((context.to_scale.bias.double() * finest).round())
    for name in ("to_scale", "to_mean"):
        kernels = getattr(context, name).weight[:, 0].double()
        getattr(target, name).copy_((kernels[:, taps[:, 0], taps[:, 1]] * finest).round())
    target.require_exact()


def _peaks(h_s: nn.Sequential, z_hats: Iterable[Tensor]) -> list[float]:
    """Largest magnitudes before each convolution, and of the output."""
    peaks: list[float] = []
    for z_hat in z_hats:
        found, x = [], z_hat
        for module in h_s:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                found.append(float(x.abs().max()))
            x = module(x)
        found.append(float(x.abs().max()))
        peaks = [max(pair) for pair in zip(peaks or found, found, strict=True)]
    return peaks


def _fraction_bits(peak: float) -> int:
    """Bits behind the point of activations up to `peak`."""
    return min(math.floor(math.log2((2**ACTIVATION_BITS - 1) / (HEADROOM * max(peak, 1e-3)))), 18)


def _as_3x3(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Kernels (O, 9, C) and biases (O,) in double; of a transposed convolution its four phases.

    Output o = 2 m + p of a transposed one gets input m + d by the weight at p + 2 - 2 d.
    """
    weight = layer.weight.detach().double().cpu()
    bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().cpu()
    bias = bias.double()
    if isinstance(layer, nn.Conv2d):
        return weight.permute(0, 2, 3, 1).flatten(1, 2), bias
    n_in, n_out = weight.shape[:2]
    phases = torch.zeros(n_out, 2, 2, 3, 3, n_in, dtype=torch.float64)
    taps = [(p, d + 1, p + 2 - 2 * d) for p in (0, 1) for d in (-1, 0, 1) if p + 2 - 2 * d < 5]
    for py, dy, ky in taps:
        for px, dx, kx in taps:
            phases[:, py, px, dy, dx] = weight[:, :, ky, kx].T
    return phases.reshape(4 * n_out, 9, n_in), bias.repeat_interleave(4)
