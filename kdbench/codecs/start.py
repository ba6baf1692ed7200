"""A start from image statistics instead of noise: the transforms begin as a block KLT.

A default initialisation shrinks latents far below the rounding noise and knows nothing of images,
so a hyperprior spends its first ten thousand steps on what a block transform knows. Here each
strided layer starts as the Karhunen-Loeve transform of the 2x2 blocks of its own input, laid into
the two central taps of each side of its kernel; the transposed layer gets the same basis, its
exact adjoint. Four layers make a 16x16 block transform with energy-ordered coefficients.

    kernel 5, padding 2: output i sees inputs 2i-2 .. 2i+2, the block is taps 2, 3
    kernel 3, padding 1: output i sees inputs 2i-1 .. 2i+1, the block is taps 1, 2

GDN starts nearly linear (gamma small). ReLU would cut half of every coefficient; its layers start
shifted instead: the bias lifts each channel by `RELU_LIFT` standard deviations and the next layer
takes the lift away again, so the transform starts linear except for rare values. A convolution does
that with its bias. A stride-2 transposed one adds the lift unevenly over its four output phases,
which no bias can undo, so a ReLU decoder gives one channel of each width to the constant 1.

Encoder and decoder may differ in width: the chain is computed for the encoder, and the decoder
uses the leading coefficients of it (they are ordered by energy), as many as it has channels for.

What cannot be written so, a decoder of two layers or separable transforms, is solved for
(`codecs.fitting`).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from compressai.layers import GDN
from torch import Tensor, nn

from kdbench.codecs.fitting import fit_analysis, fit_synthesis, is_written
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.klt import KERNEL_NOISE, RELU_LIFT, basis, blocks, make_linear
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.regression import in_chunks
from kdbench.codecs.transforms import analysis, synthesis

GAIN_PER_ROOT_LAMBDA = 82.0  # top gain 13 at rd_lambda .025


def strided(part: nn.Sequential) -> list[nn.Module]:
    """The convolutions that are layers of `part` themselves, transposed ones too."""
    return [m for m in part if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def _write(layer: nn.Module, vectors: Tensor, n_rows: int, n_cols: int) -> None:
    """Writes `vectors` (n, c, 2, 2) into the central taps; rows are the coarse side's channels."""
    weight, tap = layer.weight, layer.kernel_size[0] // 2  # type: ignore[index]
    weight.mul_(KERNEL_NOISE)  # type: ignore[operator]
    block = vectors[:n_rows, :n_cols]
    weight[: block.shape[0], : block.shape[1], tap : tap + 2, tap : tap + 2] += block  # type: ignore[index,operator]
    layer.bias.zero_()  # type: ignore[operator]


@torch.no_grad()
def klt_start(model: Hyperprior, images: Tensor, rd_lambdas: Sequence[float]) -> Tensor:
    """Starts g_a, g_s and the gains of `model` in place; the hyperprior keeps its default start.

    Returns the KLT coefficients of `images` after three layers, (B, C, H / 8, W / 8).

    Args:
        model: A fresh codec.
        images: (B, 3, H, W) in [0, 1]; H, W multiples of 16; some dozen training crops.
        rd_lambdas: One a level, ascending.
    """
    encoder, decoder = model.architecture.encoder, model.architecture.decoder
    M = model.architecture.latent.channels
    g_a, g_s = model.g_a, model.g_s
    if not is_written(encoder):
        g_a = analysis(replace(encoder, convolution="full"), M)
    if not is_written(decoder):
        g_s = synthesis(replace(decoder, layers=4, convolution="full", taper=1), M)
    usable = decoder.width - (decoder.activation == "relu")  # one channel is the constant
    features, stds = klt_layers(strided(g_a), strided(g_s), images, usable)
    _linear_activations(g_a, stds[:3])
    _linear_activations(g_s, stds[2::-1])
    if model.architecture.n_levels == 1:
        _scale(strided(g_a)[-1], strided(g_s)[0], rd_lambdas[-1])
    else:
        start_gains(model, rd_lambdas)
    if g_a is not model.g_a:
        fit_analysis(model.g_a, g_a, images)
    if g_s is not model.g_s:
        fit_synthesis(model.g_s, decoder, in_chunks(model.g_a, images), images)
    return features


@torch.no_grad()
def klt_layers(
    analysis: Sequence[nn.Module], synthesis: Sequence[nn.Module], images: Tensor, usable: int
) -> tuple[Tensor, list[Tensor]]:
    """Starts four strided convolutions and four transposed ones in place; what is between is not.

    Args:
        analysis: From the image on, with kernels of 3 or 5 and stride 2.
        synthesis: Likewise, to the image.
        images: See `klt_start`.
        usable: Channels of the synthesis between its layers that may carry coefficients.

    Returns:
        The coefficients of `images` after three layers, (B, C, H / 8, W / 8), and their standard
        deviations after each.
    """
    enc, dec = list(analysis), list(reversed(synthesis))
    h = images - 0.5
    fine_width = 3  # decoder channels on the fine side of the layer
    stds: list[Tensor] = []
    features = h
    for i, (conv, deconv) in enumerate(zip(enc, dec, strict=True)):
        c = h.shape[1]
        rows = blocks(h)
        vectors = basis(rows, min(int(conv.out_channels), c * 4))  # type: ignore[arg-type]
        found = rows @ vectors.T
        b, _, height, width = h.shape
        h = found.reshape(b, height // 2, width // 2, -1).permute(0, 3, 1, 2)
        stds.append(found.std(0))
        features = h if i < 3 else features
        taps = vectors.reshape(len(vectors), c, 2, 2)
        coarse_width = usable if i < 3 else len(vectors)
        _write(conv, taps, len(vectors), c)
        _write(deconv, taps, coarse_width, fine_width)
        fine_width = usable
    _shift_input_and_output(enc[0], dec[0])
    return features, stds


def _shift_input_and_output(first: nn.Module, last: nn.Module) -> None:
    """Centres x by 0.5 through the first bias and puts it back through the last."""
    first.bias.copy_(-0.5 * first.weight.sum((1, 2, 3)))  # type: ignore[operator]
    last.bias.fill_(0.5)  # type: ignore[operator]


def _linear_activations(part: nn.Sequential, stds: Sequence[Tensor]) -> None:
    """Makes every activation start (nearly) linear: small gamma, or a lift past ReLU's corner."""
    layers = strided(part)
    activations = [m for m in part if not isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for i, activation in enumerate(activations):
        if isinstance(activation, GDN):
            make_linear(activation)
        else:
            _lift(layers[i], layers[i + 1], stds[i])


def _lift(before: nn.Module, after: nn.Module, std: Tensor) -> None:
    """Lifts the output of `before` by `RELU_LIFT` deviations and lets `after` take it away."""
    bias: Tensor = before.bias  # type: ignore[assignment]
    weight: Tensor = after.weight  # type: ignore[assignment]
    known = min(len(bias), len(std))
    lift = torch.zeros(len(bias))
    lift[:known] = RELU_LIFT * std[:known]
    if isinstance(after, nn.Conv2d):
        bias.add_(lift)
        after.bias.sub_(torch.einsum("oikl,i->o", weight, lift))  # type: ignore[union-attr]
        return
    lift[-1] = 0.0
    bias.add_(lift)
    before.weight[:, -1] = 0.0  # type: ignore[operator]
    bias[-1] = 1.0
    weight[-1] = -torch.einsum("iokl,i->okl", weight, lift)


@torch.no_grad()
def start_gains(model: LearnedCodec, rd_lambdas: Sequence[float]) -> None:
    """Starts the gains of `model`, whose layers are KLTs, at what its rd_lambdas need, in place."""
    if model.architecture.n_levels == 1:
        _scale(strided(model.g_a)[-1], strided(model.g_s)[0], rd_lambdas[-1])
        return
    log_gain = (GAIN_PER_ROOT_LAMBDA * torch.tensor(list(rd_lambdas)).sqrt()).log()
    model.log_gain.copy_(log_gain[:, None].expand_as(model.log_gain))
    model.log_inverse_gain.copy_(-log_gain[:, None].expand_as(model.log_inverse_gain))


def _scale(last: nn.Module, first: nn.Module, rd_lambda: float) -> None:
    """Gives the one level its gain through the last layer of g_a and the first of g_s."""
    scale = GAIN_PER_ROOT_LAMBDA * rd_lambda**0.5
    last.weight.mul_(scale)  # type: ignore[operator]
    last.bias.mul_(scale)  # type: ignore[operator]
    first.weight.div_(scale)  # type: ignore[operator]


@torch.no_grad()
def scale_start(model: Hyperprior, images: Tensor) -> None:
    """Starts h_s at each channel's own deviation, in place: a hyperprior that knows one number.

    A default start predicts scales near the lower bound for latents that span hundreds of steps,
    and the first hundred training steps go into learning just this.

    Args:
        model: Its transforms and gains have started.
        images: (B, 3, H, W) in [0, 1], H and W multiples of 64.
    """
    scales = gained_deviations(model, images)
    last = strided(model.h_s)[-1]
    last.weight.mul_(KERNEL_NOISE)  # type: ignore[operator]
    means = [torch.zeros_like(scales)] if model.has_means else []
    last.bias.copy_(torch.cat([scales, *means]))  # type: ignore[operator]


@torch.no_grad()
def gained_deviations(model: LearnedCodec, images: Tensor) -> Tensor:
    """Standard deviation of each channel of the gained latent, mean over the levels, (M,)."""
    y = model.g_a(images)
    deviations = [
        (y * model.gain(level)).transpose(0, 1).flatten(1).std(1)
        for level in range(model.architecture.n_levels)
    ]
    return torch.stack(deviations).mean(0)
