"""A start for transforms that no block KLT can be written into: each layer by least squares.

These are decoders of two layers, tapered ones, and depthwise-separable transforms. Their layers
are solved in order, from what the layers before really give (`codecs.regression`):

    analysis     layer i -> what layer i of a full transform gives that starts as a KLT
    synthesis    layer i -> the KLT coefficients, as many as it has channels, of the image's blocks
                 that one of its outputs stands for (8, 4, 2 px a side; of two layers 16 / S)
                 the last layer -> the image

Activations start nearly linear, as in `codecs.start`: a ReLU by a lift past its corner, and in a
synthesis one channel is the constant 1, from which the next layer takes the lifts away.
"""

import torch
from compressai.layers import GDN
from torch import Tensor, nn

from kdbench.codecs.klt import KERNEL_NOISE, RELU_LIFT, coefficients, make_linear
from kdbench.codecs.regression import (
    in_chunks,
    solve_conv,
    solve_deconv,
    solve_separable_conv,
    solve_separable_deconv,
)
from kdbench.codecs.transforms import STRIDE, Separable, SeparableConv, SeparableDeconv
from kdbench.records import Transform

N_IMAGES = 32  # of an analysis: 128 px crops give a separable layer 2,000 rows each and more


def is_written(transform: Transform) -> bool:
    """Whether a block KLT can be written into it."""
    return transform.layers == 4 and transform.convolution == "full" and transform.taper == 1


def solve(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """Sets one layer of a transform in place to what gives `outputs` (B, n, h, w) of `inputs`.

    n may be less than the channels of a transposed one; see `codecs.regression`.
    """
    if isinstance(layer, SeparableConv):
        solve_separable_conv(layer, inputs, outputs)
    elif isinstance(layer, SeparableDeconv):
        solve_separable_deconv(layer, inputs, outputs)
    elif isinstance(layer, nn.ConvTranspose2d):
        solve_deconv(layer, inputs, outputs, free_bias=True)
    elif isinstance(layer, nn.Conv2d):
        solve_conv(layer, inputs, outputs, free_bias=True)
    else:
        raise TypeError(f"no layer of a transform: {type(layer).__name__}")


@torch.no_grad()
def fit_analysis(part: nn.Sequential, full: nn.Sequential, images: Tensor) -> None:
    """Starts the separable `part` in place as what it can be of `full`.

    Args:
        part: A g_a.
        full: One of full convolutions, of the same width and activation, started.
        images: (B, 3, H, W) in [0, 1]; some dozen training crops, the first of which are taken.
    """
    own = target = images[:N_IMAGES]
    for layer, model in zip(part, full, strict=True):
        target = model(target)
        if isinstance(layer, GDN):
            make_linear(layer)
        elif not isinstance(layer, nn.ReLU):
            solve(layer, own, target)
        own = layer(own)


@torch.no_grad()
def fit_synthesis(
    part: nn.Sequential, transform: Transform, latents: Tensor, images: Tensor
) -> None:
    """Starts `part` in place so that it makes the images of the latents.

    Args:
        part: A g_s.
        transform: What it was built as.
        latents: What it is given, (B, M, H / 16, W / 16).
        images: (B, 3, H, W) in [0, 1].
    """
    is_relu = transform.activation == "relu"
    layers = list(part[::2])
    px = STRIDE  # of the block that an input of the layer stands for, a side
    h = latents
    for i, layer in enumerate(layers[:-1]):
        px //= _stride(layer)
        usable = transform.widths[i] - is_relu
        wanted = coefficients(images - 0.5, px, min(usable, 3 * px**2))
        last = _last_part(layer)
        last.weight.mul_(KERNEL_NOISE)  # type: ignore[operator]
        last.bias.zero_()  # type: ignore[operator]
        if is_relu:
            wanted = wanted + RELU_LIFT * wanted.std((0, 2, 3), keepdim=True)
        solve(layer, h, wanted)
        if is_relu:
            _channels_out(last)[-1] = 0.0
            last.bias[-1] = 1.0  # type: ignore[operator]
        activation = part[2 * i + 1]
        if isinstance(activation, GDN):
            make_linear(activation)
        step = nn.Sequential(layer, activation)
        h = in_chunks(step, h)
    solve(layers[-1], h, images)


def _last_part(layer: nn.Module) -> nn.Module:
    """What has the bias."""
    last: nn.Module = layer[-1] if isinstance(layer, Separable) else layer
    return last


def _stride(layer: nn.Module) -> int:
    strided = layer[0] if isinstance(layer, SeparableDeconv) else layer
    return int(strided.stride[0])  # type: ignore[index]


def _channels_out(layer: nn.Module) -> Tensor:
    """The kernels with the output channels first, a view."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
