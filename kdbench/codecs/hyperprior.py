"""The scale hyperprior codec: every student and every built-in teacher is one of these.

Balle et al. 2018 (arXiv 1802.01436) with the variable rate of Cui et al. 2021 (arXiv 2003.02012).
For quality level l, with gains a_l > 0 and inverse gains b_l > 0, one of each per latent channel:

    y     = a_l * g_a(x)             the gained latent: its unit is the quantisation step
    z     = h_a(|y|)                 differs by level because y does
    z_hat = Q(z)                     factorised prior, shared by the levels
    sigma = h_s(z_hat)               scale of the *gained* y, so scale indexes need no level
    y_hat = Q(y) ~ N(0, sigma^2)
    x_hat = g_s(b_l * y_hat)

With one level there are no gains and the class equals CompressAI's `ScaleHyperprior`: same
state-dict names, same outputs. Shapes are named in `codecs.base`.
"""

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN
from compressai.models.base import CompressionModel
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from kdbench.errors import CodecError
from kdbench.records import Architecture, Transform

DOWNSAMPLING = 64  # g_a halves four times, h_a twice: H and W of x are multiples of this


def rounded(values: Tensor) -> Tensor:
    """`values` rounded, with the gradient of the identity (straight through)."""
    return values + (values.round() - values).detach()


def _activation(transform: Transform, *, inverse: bool) -> nn.Module:
    if transform.activation == "relu":
        return nn.ReLU()
    gdn: nn.Module = GDN(transform.width, inverse=inverse)
    return gdn


class Hyperprior(CompressionModel):  # type: ignore[misc]  # CompressAI has no types
    """Variable-rate scale hyperprior with encoder, decoder and hyper widths of their own.

    Args:
        architecture: What to build. `n_levels == 1` builds no gains.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        enc, dec = architecture.encoder, architecture.decoder
        M, H = architecture.latent.channels, architecture.hyper.width
        self.architecture = architecture
        self.entropy_bottleneck = EntropyBottleneck(H)
        self.gaussian_conditional = GaussianConditional(None)
        self.g_a = nn.Sequential(
            conv(3, enc.width, kernel_size=enc.kernel),
            _activation(enc, inverse=False),
            conv(enc.width, enc.width, kernel_size=enc.kernel),
            _activation(enc, inverse=False),
            conv(enc.width, enc.width, kernel_size=enc.kernel),
            _activation(enc, inverse=False),
            conv(enc.width, M, kernel_size=enc.kernel),
        )
        self.g_s = nn.Sequential(
            deconv(M, dec.width, kernel_size=dec.kernel),
            _activation(dec, inverse=True),
            deconv(dec.width, dec.width, kernel_size=dec.kernel),
            _activation(dec, inverse=True),
            deconv(dec.width, dec.width, kernel_size=dec.kernel),
            _activation(dec, inverse=True),
            deconv(dec.width, 3, kernel_size=dec.kernel),
        )
        self.h_a = nn.Sequential(
            conv(M, H, stride=1, kernel_size=3),
            nn.ReLU(inplace=True),
            conv(H, H),
            nn.ReLU(inplace=True),
            conv(H, H),
        )
        self.h_s = nn.Sequential(
            deconv(H, H),
            nn.ReLU(inplace=True),
            deconv(H, H),
            nn.ReLU(inplace=True),
            conv(H, M, stride=1, kernel_size=3),
            nn.ReLU(inplace=True),
        )
        if architecture.n_levels > 1:
            self.log_gain = nn.Parameter(torch.zeros(architecture.n_levels, M))
            self.log_inverse_gain = nn.Parameter(torch.zeros(architecture.n_levels, M))

    # --- levels ----------------------------------------------------------------------------------

    def _levels(self, level: Tensor | int, batch: int) -> Tensor:
        """`level` as a (B,) tensor, checked.

        Raises:
            CodecError: A level this codec was not built for.
        """
        n = self.architecture.n_levels
        levels = torch.as_tensor(level).expand(batch) if isinstance(level, int) else level
        if int(levels.min()) < 0 or int(levels.max()) >= n:
            raise CodecError(
                f"level {levels.tolist()} is outside the trained levels 0 to {n - 1}",
                fix="choose one of the codec's levels; between levels nothing was trained",
            )
        return levels

    def gain(self, level: Tensor | int, batch: int = 1) -> Tensor:
        """a_l, (B, M, 1, 1); ones where the codec has one level."""
        levels = self._levels(level, batch)
        if self.architecture.n_levels == 1:
            return torch.ones(batch, 1, 1, 1, device=next(self.parameters()).device)
        return self.log_gain[levels].exp()[:, :, None, None]

    def inverse_gain(self, level: Tensor | int, batch: int = 1) -> Tensor:
        """b_l, (B, M, 1, 1); learned apart from a_l."""
        levels = self._levels(level, batch)
        if self.architecture.n_levels == 1:
            return torch.ones(batch, 1, 1, 1, device=next(self.parameters()).device)
        return self.log_inverse_gain[levels].exp()[:, :, None, None]

    # --- training and estimating -----------------------------------------------------------------

    def forward(self, x: Tensor, level: Tensor | int = 0) -> dict[str, Tensor | dict[str, Tensor]]:
        """Reconstruction, likelihoods and latents; CompressAI's contract and three keys more.

        In training the rate sees uniform noise and the synthesis sees rounded latents with a
        straight-through gradient (the mixed quantisation of Minnen and Singh 2020); in eval both
        see the rounded ones. Latents, scales and likelihoods are fp32 under autocast too.

        Args:
            x: (B, 3, H, W) in [0, 1], H and W multiples of 64.
            level: One level, or one a sample (B,).

        Returns:
            `x_hat` (B, 3, H, W) not clamped; `likelihoods` {`y` (B, M, h, w), `z`}; `y` before
            rounding, `z` before rounding, `scales` sigma as the decoder sees it.
        """
        gain = self.gain(level, x.shape[0])
        y = self.g_a(x).float() * gain
        z = self.h_a(torch.abs(y)).float()
        z_noisy, z_likelihoods = self.entropy_bottleneck(z)
        if self.training:
            medians = self.entropy_bottleneck._get_medians().detach()[None]
            medians = medians.reshape(1, -1, 1, 1)
            z_hat = rounded(z - medians) + medians
        else:
            z_hat = z_noisy
        scales = self.h_s(z_hat).float()
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales)
        if self.training:
            y_hat = rounded(y)
        x_hat = self.g_s(y_hat * self.inverse_gain(level, x.shape[0])).float()
        return {
            "x_hat": x_hat,
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
            "y": y,
            "z": z,
            "scales": scales,
        }

    # --- real bitstreams -------------------------------------------------------------------------

    def finalise(self) -> None:
        """Builds the CDF tables; to be called once after training, before estimating or coding.

        Moves the medians of the hyper-latent (CompressAI's bisection instead of an auxiliary
        optimiser), so estimates before and after differ.

        CompressAI codes each latent with the next larger of its 64 scales; we take the nearest, by
        raising what sigma is compared with half a step above the scales that the tables are for.
        Measured on the built-in teacher, 2026-11-23: 0.46 % less bits at the lowest level, 0.13 %
        at the highest; 1.8 % on a teacher whose scales were less certain.
        """
        self.eval()
        self.update(force=True, update_quantiles=True)
        scales = self.gaussian_conditional.scale_table
        self.gaussian_conditional.scale_table = scales * (scales[1] / scales[0]).sqrt()

    def compress(self, x: Tensor, level: int = 0) -> dict[str, object]:
        """Coded strings of one batch.

        Returns:
            `strings` [[y bytes a sample], [z bytes a sample]]; `shape` of z (h, w); `y_hat` the
            integer latents and `indexes` their scale indexes, both (B, M, h, w).
        """
        y = self.g_a(x) * self.gain(level)
        z = self.h_a(torch.abs(y))
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        indexes = self.gaussian_conditional.build_indexes(self.h_s(z_hat))
        y_strings = self.gaussian_conditional.compress(y, indexes)
        return {
            "strings": [y_strings, z_strings],
            "shape": tuple(z.shape[-2:]),
            "y_hat": y.round(),
            "indexes": indexes,
        }

    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: int = 0
    ) -> dict[str, Tensor]:
        """Reconstruction `x_hat` clamped to [0, 1], with `y_hat` and `indexes` as decoded."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        indexes = self.gaussian_conditional.build_indexes(self.h_s(z_hat))
        y_hat = self.gaussian_conditional.decompress(strings[0], indexes, z_hat.dtype)
        x_hat = self.g_s(y_hat * self.inverse_gain(level)).clamp(0, 1)
        return {"x_hat": x_hat, "y_hat": y_hat, "indexes": indexes}


def images_bits(likelihoods: dict[str, Tensor]) -> Tensor:
    """Estimated bits of each image (B,): -log2 of every likelihood, summed."""
    return -sum(
        (p.log2().flatten(1).sum(1) for p in likelihoods.values()),
        start=torch.zeros(()),
    )
