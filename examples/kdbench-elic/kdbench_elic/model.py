"""An ELIC-like codec: residual bottlenecks, and a mean-scale prior with checkerboard context.

Transforms of He et al. 2022 (arXiv 2203.10886) without attention, the context model of He et al.
2021 (arXiv 2103.15306), the gains of Cui et al. 2021 (arXiv 2003.02012), on CompressAI's layers:

    y         = a_l g_a(x)         a residual chain after each strided layer but the last
    z_hat     = Q(h_a(y, |y|))
    anchors   (i + j even)   sigma, mu = predict(0, h_s(z_hat))
    the rest  (i + j odd)    sigma, mu = predict(context(anchors of y_hat), h_s(z_hat))
    y_hat     = mu + Q(y - mu) ~ N(mu, sigma^2)
    x_hat     = g_s(b_l y_hat)

Both halves are predicted in two passes in training, too, so what is trained is what is coded. ELIC
itself codes uneven groups of channels one after another as well; this codec does not.
"""

from collections.abc import Sequence

import torch
from compressai.ans import BufferedRansEncoder, RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from kdbench.codecs.hyperprior import quantised, rounded
from kdbench.codecs.klt import KERNEL_NOISE
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.start import gained_deviations, klt_layers, start_gains, strided


def _chain(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBottleneckBlock(width, width) for _ in range(blocks)))


def anchors_of(y: Tensor) -> Tensor:
    """Where y (B, M, h, w) is an anchor, (h, w) bool."""
    rows, columns = (torch.arange(n, device=y.device) for n in y.shape[-2:])
    return (rows[:, None] + columns[None]) % 2 == 0


class Elic(LearnedCodec):
    """See the head of this module; widths are channels, `blocks` residual bottlenecks a chain."""

    def __init__(
        self, *, encoder: int, decoder: int, blocks: int, latent: int, hyper: int, n_levels: int
    ) -> None:
        super().__init__()
        N, D, M, H = encoder, decoder, latent, hyper
        self.entropy_bottleneck = EntropyBottleneck(H)
        self.gaussian_conditional = GaussianConditional(None)
        self.g_a = nn.Sequential(
            conv(3, N),
            _chain(N, blocks),
            conv(N, N),
            _chain(N, blocks),
            conv(N, N),
            _chain(N, blocks),
            conv(N, M),
        )
        self.g_s = nn.Sequential(
            deconv(M, D),
            _chain(D, blocks),
            deconv(D, D),
            _chain(D, blocks),
            deconv(D, D),
            _chain(D, blocks),
            deconv(D, 3),
        )
        self.h_a = nn.Sequential(
            conv(2 * M, H, stride=1, kernel_size=3), nn.ReLU(), conv(H, H), nn.ReLU(), conv(H, H)
        )
        self.h_s = nn.Sequential(deconv(H, H), nn.ReLU(), deconv(H, H), nn.ReLU())
        self.context = CheckerboardMaskedConv2d(M, H, kernel_size=5, padding=2)
        self.predict = nn.Sequential(
            nn.Conv2d(2 * H, 2 * H, 1), nn.ReLU(), nn.Conv2d(2 * H, 2 * M, 1)
        )
        self.make_gains(n_levels, M)

    # --- what both directions share --------------------------------------------------------------

    def _gaussians(self, side: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scales and means, fp32; `context` None: nothing is known yet."""
        known = torch.zeros_like(side) if context is None else context.to(side.dtype)
        scales, means = self.predict(torch.cat([known, side], 1)).float().chunk(2, 1)
        return scales, means

    def forward_latent(
        self, latent: Tensor, level: Tensor | float = 0
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """See `LearnedCodec`."""
        batch = latent.shape[0]
        y = latent * self.gain(level, batch)
        z = self.h_a(torch.cat([y, y.abs()], 1)).float()
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        if self.training:
            medians = self.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
            z_hat = rounded(z - medians) + medians
        side, is_anchor = self.h_s(z_hat), anchors_of(y)
        scales, means = self._gaussians(side, None)
        first = torch.where(is_anchor, quantised(y, means), 0)
        then = self._gaussians(side, self.context(first))
        scales, means = (
            torch.where(is_anchor, a, b) for a, b in zip((scales, means), then, strict=True)
        )
        _, y_likelihoods = self.gaussian_conditional(y, scales, means)
        y_hat = torch.where(is_anchor, first, quantised(y, means))
        return {
            "x_hat": self.g_s(y_hat * self.inverse_gain(level, batch)).float(),
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
            "y": y,
            "z": z,
            "y_hat": y_hat,
            "z_hat": z_hat,
            "scales": scales,
            "means": means,
        }

    # --- real bitstreams -------------------------------------------------------------------------

    def _tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        prior = self.gaussian_conditional
        offsets: list[int] = prior._offset.reshape(-1).int().tolist()
        return prior._quantized_cdf.tolist(), prior._cdf_length.reshape(-1).int().tolist(), offsets

    def compress_latent(self, latent: Tensor, level: float = 0) -> dict[str, object]:
        """See `LearnedCodec`; both halves of y are in one string, the anchors first."""
        y = latent * self.gain(level)
        z = self.h_a(torch.cat([y, y.abs()], 1)).float()
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        side, is_anchor = self.h_s(z_hat), anchors_of(y)
        coders = [BufferedRansEncoder() for _ in y]
        symbols, indexes, context = [], [], None
        for half in (is_anchor, ~is_anchor):
            scales, means = self._gaussians(side, context)
            at = self.gaussian_conditional.build_indexes(scales)[..., half]
            found = (y - means).round().int()[..., half]
            for coder, values, tables in zip(coders, found, at, strict=True):
                coder.encode_with_indexes(
                    values.flatten().tolist(), tables.flatten().tolist(), *self._tables()
                )
            y_hat = torch.zeros_like(y)
            y_hat[..., half] = found.to(y.dtype) + means[..., half]
            context = self.context(y_hat)
            symbols.append(found)
            indexes.append(at)
        return {
            "strings": [[coder.flush() for coder in coders], z_strings],
            "shape": tuple(z.shape[-2:]),
            "symbols": torch.cat(symbols, -1),
            "indexes": torch.cat(indexes, -1),
        }

    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        """See `LearnedCodec`."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        side = self.h_s(z_hat)
        y_hat = side.new_zeros(len(side), self.context.in_channels, *side.shape[-2:])
        decoders = [RansDecoder() for _ in strings[0]]
        for decoder, string in zip(decoders, strings[0], strict=True):
            decoder.set_stream(string)
        is_anchor = anchors_of(y_hat)
        symbols, indexes, context = [], [], None
        for half in (is_anchor, ~is_anchor):
            scales, means = self._gaussians(side, context)
            at = self.gaussian_conditional.build_indexes(scales)[..., half]
            read = [
                decoder.decode_stream(tables.flatten().tolist(), *self._tables())
                for decoder, tables in zip(decoders, at, strict=True)
            ]
            found = torch.tensor(read, dtype=torch.int, device=at.device).reshape(at.shape)
            y_hat[..., half] = found.to(y_hat.dtype) + means[..., half]
            context = self.context(y_hat)
            symbols.append(found)
            indexes.append(at)
        return {
            "x_hat": self.g_s(y_hat * self.inverse_gain(level)).clamp(0, 1),
            "symbols": torch.cat(symbols, -1),
            "indexes": torch.cat(indexes, -1),
        }


@torch.no_grad()
def start(model: Elic, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    """Strided layers as a block KLT, residual blocks as the identity, scales as they are.

    Args:
        model: A fresh codec.
        crops: (B, 3, H, W) in [0, 1], H and W multiples of 64.
        rd_lambdas: One a level, ascending.
    """
    for block in model.modules():
        if isinstance(block, ResidualBottleneckBlock):
            block.conv3.weight.mul_(KERNEL_NOISE)
            block.conv3.bias.zero_()
    analysis, synthesis = strided(model.g_a), strided(model.g_s)
    width = int(synthesis[0].out_channels)  # type: ignore[arg-type]
    klt_layers(analysis, synthesis, crops, width)
    start_gains(model, rd_lambdas)
    last = model.predict[-1]
    last.weight.mul_(KERNEL_NOISE)  # type: ignore[operator]
    scales = gained_deviations(model, crops)
    last.bias.copy_(torch.cat([scales, torch.zeros_like(scales)]))  # type: ignore[operator]
