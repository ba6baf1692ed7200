"""The transforms g_a and g_s of a hyperprior, from what a spec says of them.

Four strided layers of kernel k, an activation between (Balle et al. 2018):

    g_a   conv k /2, act, conv k /2, act, conv k /2, act, conv k /2
    g_s   deconv k x2, inverse act, ... , deconv k x2           (four)

A decoder may have two layers instead, as shallow decoders under a large encoder do (Yang and Mandt
2023, arXiv 2304.06244: 13x13 x8 to 12 channels, then 5x5 x2):

    g_s   deconv x S to N channels, inverse act, deconv x 16/S to RGB

Their kernels reach as far as those of four layers, counted in strides: k S / 2 pixels, rounded up
to an even number, so that each is centred on the S x S pixels that an input stands for. Cheap is
what happens on the coarse grid, so of M latents a small S costs least: per pixel and channel of
width, at k = 3, 12 M / 192 + 6.75 MAC for S = 2, 108 M / 192 + 12 for S = 8.

Or its four layers may taper, N, N / 2, N / 4 channels from the latent on. What limits a narrow
decoder is how many numbers a pixel has behind it: 192 latents are 0.75 a pixel, and N channels
after the first layer N / 64, after the third N / 4. Of one N, the first strangles and the third
idles; N = 48 tapered is 0.75, 1.5 and 3, and its layers cost about the same.

Either side may be depthwise-separable: each layer is a 1x1 convolution across channels and one
kernel a channel for space. The 1x1 is on the finer grid, first in g_a and last in g_s. On the
coarser one it would narrow what passes: a 2x2 block of c channels is 4 c numbers, and c channels
on the coarse grid can only be c of them.

State-dict names of four full layers are CompressAI's `ScaleHyperprior`'s.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from kdbench.codecs.layers import GDN, Deconv, conv, deconv
from kdbench.records import Transform

STRIDE = 16  # of the latent


class Separable(nn.Sequential):
    """A strided convolution in two: a 1x1 across channels, and one kernel a channel."""


class SeparableConv(Separable):
    """(B, C_in, H, W) -> (B, C_out, H / s, W / s): the 1x1 first."""

    def __init__(self, dense: nn.Conv2d) -> None:
        """Of the shape and stride of `dense`."""
        n = dense.out_channels
        depthwise = nn.Conv2d(
            n,
            n,
            dense.kernel_size,  # type: ignore[arg-type]
            stride=dense.stride,  # type: ignore[arg-type]
            padding=dense.padding,  # type: ignore[arg-type]
            groups=n,
        )
        super().__init__(nn.Conv2d(dense.in_channels, n, 1, bias=False), depthwise)


class SeparableDeconv(Separable):
    """(B, C_in, H, W) -> (B, C_out, s H, s W): the 1x1 last."""

    def __init__(self, dense: nn.ConvTranspose2d) -> None:
        """Of the shape and stride of `dense`."""
        n = dense.in_channels
        depthwise = nn.ConvTranspose2d(
            n,
            n,
            dense.kernel_size,  # type: ignore[arg-type]
            stride=dense.stride,  # type: ignore[arg-type]
            padding=dense.padding,  # type: ignore[arg-type]
            output_padding=dense.output_padding,  # type: ignore[arg-type]
            groups=n,
            bias=False,
        )
        super().__init__(depthwise, nn.Conv2d(n, dense.out_channels, 1))


def analysis(transform: Transform, latents: int) -> nn.Sequential:
    """g_a with random weights: (B, 3, H, W) -> (B, `latents`, H / 16, W / 16).

    Raises:
        ValueError: Of two layers, or tapered, which only a decoder is.
    """
    if transform.layers != 4 or transform.taper != 1:
        raise ValueError("an encoder has four layers of one width")
    widths = (3, *transform.widths, latents)
    layers: list[nn.Module] = [
        conv(n_in, n_out, kernel_size=transform.kernel) for n_in, n_out in pairwise(widths)
    ]
    if transform.convolution == "separable":
        layers = [SeparableConv(dense) for dense in layers]  # type: ignore[arg-type]
    return _between(layers, transform, inverse=False)


def synthesis(transform: Transform, latents: int) -> nn.Sequential:
    """g_s with random weights: (B, `latents`, h, w) -> (B, 3, 16 h, 16 w)."""
    pairs = list(pairwise((latents, *transform.widths, 3)))
    layers: list[nn.Module]
    if transform.layers == 2:
        strides = (transform.stride, STRIDE // transform.stride)
        layers = [
            _centred_deconv(n_in, n_out, transform.kernel, stride)
            for (n_in, n_out), stride in zip(pairs, strides, strict=True)
        ]
    else:
        layers = [deconv(n_in, n_out, kernel_size=transform.kernel) for n_in, n_out in pairs]
    if transform.convolution == "separable":
        layers = [SeparableDeconv(dense) for dense in layers]  # type: ignore[arg-type]
    return _between(layers, transform, inverse=True)


def _centred_deconv(n_in: int, n_out: int, kernel: int, stride: int) -> Deconv:
    """`kernel` / 2 strides wide, rounded up to an even number."""
    side = kernel * stride // 2
    side += side % 2
    return Deconv(n_in, n_out, side, stride=stride, padding=(side - stride) // 2)


def _between(layers: Sequence[nn.Module], transform: Transform, *, inverse: bool) -> nn.Sequential:
    """The layers with an activation after each but the last."""
    parts = [layers[0]]
    for layer, width in zip(layers[1:], transform.widths, strict=True):
        parts += [_activation(transform, width, inverse=inverse), layer]
    return nn.Sequential(*parts)


def _activation(transform: Transform, width: int, *, inverse: bool) -> nn.Module:
    if transform.activation == "relu":
        return nn.ReLU()
    return GDN(width, inverse=inverse)
