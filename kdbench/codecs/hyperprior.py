"""The hyperprior codec: every student and every built-in teacher is one of these.

Balle et al. 2018 (arXiv 1802.01436) with the variable rate of Cui et al. 2021 (arXiv 2003.02012).
For quality level l, with gains a_l > 0 and inverse gains b_l > 0, one of each per latent channel:

    y         = a_l * g_a(x)         the gained latent: its unit is the quantisation step
    z         = h_a(|y|)             differs by level because y does
    z_hat     = Q(z)                 factorised prior, shared by the levels
    sigma     = h_s(z_hat)           scale of the *gained* y, so scale indexes need no level
    y_hat     = Q(y) ~ N(0, sigma^2)
    x_hat     = g_s(b_l * y_hat)

That is the prior `scale`. With `mean_scale` (Minnen et al. 2018, arXiv 1809.02736) h_a sees the
signs, too, and h_s predicts means; what is coded is the distance from them:

    z         = h_a(y, |y|)
    sigma, mu = h_s(z_hat)
    y_hat     = mu + Q(y - mu) ~ N(mu, sigma^2)

h_s is then H wide up to its last layer, where CompressAI's `MeanScaleHyperprior` is 1.5 M wide and
costs a small student more than its whole synthesis. And where that one's h_a sees y alone, a narrow
one cannot: it would need two ReLUs for each magnitude, and has H for M of them. A teacher of H=64
that saw y alone stood at +53.4 % BD-rate to bmshj2018-hyperprior after 21,000 steps, the same one
with |y| at +51.2 % after 8,000 (Kodak, November 2026).

With a context (`codecs.context`) half of the positions of y are coded first, and correct sigma and
mu of the other half before those are; y_hat = mu + Q(y - mu) there with either prior.

With one level there are no gains, and with the prior `scale` and no context the class equals
CompressAI's `ScaleHyperprior`: same state-dict names, same outputs. Shapes are named in
`codecs.base`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.codecs.coder import FactorisedPrior, GaussianPrior
from kdbench.codecs.context import Context, halves
from kdbench.codecs.integer import IntegerContext, IntegerSynthesis
from kdbench.codecs.layers import conv, deconv
from kdbench.codecs.learned import LearnedCodec
from kdbench.codecs.transforms import analysis, synthesis
from kdbench.families import Part
from kdbench.records import Architecture


def rounded(values: Tensor) -> Tensor:
    """`values` rounded, with the gradient of the identity (straight through)."""
    if not torch.is_grad_enabled():  # an operation that whoever counts operations knows
        return values.round()
    rounded: Tensor = _Round.apply(values)
    return rounded


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Gaussians(NamedTuple):
    """What is predicted of the gained latent, each (B, M, h, w).

    Attributes:
        means: None if they are 0: with the prior `scale`, unless there is a context.
    """

    scales: Tensor
    means: Tensor | None


def quantised(y: Tensor, means: Tensor | None) -> Tensor:
    """y_hat: `y` rounded where it lies from its mean; the gradient is the identity's."""
    return rounded(y) if means is None else rounded(y - means) + means


class Hyperprior(LearnedCodec):
    """Variable-rate hyperprior with encoder, decoder and hyper widths of their own.

    Args:
        architecture: What to build. `n_levels == 1` builds no gains.
    """

    architecture: Architecture
    parts: Mapping[str, Part] = {**LearnedCodec.parts, "context": "h_s"}

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        M, H = architecture.latent.channels, architecture.hyper.width
        Z = architecture.hyper.z_channels
        self.architecture = architecture
        self.entropy_bottleneck = FactorisedPrior(Z)
        self.gaussian_conditional = GaussianPrior(None)
        self.g_a = analysis(architecture.encoder, M)
        self.g_s = synthesis(architecture.decoder, M)
        self.h_a = nn.Sequential(
            conv(2 * M if self.has_means else M, H, stride=1, kernel_size=3),
            nn.ReLU(inplace=True),
            conv(H, H),
            nn.ReLU(inplace=True),
            conv(H, Z),
        )
        self.h_s = self._hyper_synthesis(Z, H, 2 * M if self.has_means else M)
        self.context: Context | IntegerContext | None = None
        if self.has_context:
            self.context = IntegerContext(M) if self.has_integer_prior else Context(M)
        self.make_gains(architecture.n_levels, M)

    def _hyper_synthesis(self, Z: int, H: int, n_out: int) -> nn.Sequential:
        if self.has_integer_prior:
            return IntegerSynthesis(Z, H, n_out, rectifies=not self.has_means)
        layers = [deconv(Z, H), nn.ReLU(inplace=True), deconv(H, H), nn.ReLU(inplace=True)]
        layers += [conv(H, n_out, stride=1, kernel_size=3)]
        return nn.Sequential(*layers, *([] if self.has_means else [nn.ReLU(inplace=True)]))

    # --- hyperprior ------------------------------------------------------------------------------

    @property
    def has_means(self) -> bool:
        """Whether h_s predicts means."""
        return self.architecture.hyper.prior == "mean_scale"

    @property
    def has_integer_prior(self) -> bool:
        """Whether h_s computes in integers (see `codecs.integer`)."""
        return self.architecture.hyper.arithmetic == "integer"

    @property
    def has_context(self) -> bool:
        """Whether half of the latent is coded by what its neighbours are."""
        return self.architecture.hyper.context == "checkerboard"

    def hyper_latent(self, y: Tensor) -> Tensor:
        """The z of a gained latent, before rounding, (B, H, h / 4, w / 4) fp32."""
        z: Tensor = self.h_a(self.hyper_input(y)).float()
        return z

    def hyper_input(self, y: Tensor) -> Tensor:
        """What h_a sees of a gained latent: magnitudes, and with means the values before them."""
        magnitudes = torch.abs(y)
        return torch.cat([y, magnitudes], 1) if self.has_means else magnitudes

    def gaussians(self, z_hat: Tensor) -> Gaussians:
        """What a decoded hyper-latent says of the gained latent, fp32."""
        predicted = self.h_s(z_hat).float()
        return Gaussians(*predicted.chunk(2, 1)) if self.has_means else Gaussians(predicted, None)

    def coding_gaussians(self, y: Tensor, z_hat: Tensor) -> Gaussians:
        """What a gained latent is coded by: `gaussians`, corrected where there is a context.

        Gradients reach `y` as if it were not rounded.
        """
        said = self.gaussians(z_hat)
        if self.context is None:
            return said
        return self._corrected(rounded(y if said.means is None else y - said.means), said)

    def _corrected(self, residuals: Tensor, said: Gaussians) -> Gaussians:
        """What the `residuals` that are coded first make of what `gaussians` said."""
        assert self.context is not None
        means = torch.zeros_like(said.scales) if said.means is None else said.means
        with torch.autocast(residuals.device.type, enabled=False):
            return Gaussians(*self.context(residuals, said.scales, means))

    def rounded_hyper_latent(self, z: Tensor) -> Tensor:
        """z_hat as the decoder sees it; the gradient is the identity's."""
        medians: Tensor = self.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
        return rounded(z - medians) + medians

    # --- training and estimating -----------------------------------------------------------------

    def forward_latent(
        self, latent: Tensor, level: Tensor | float = 0
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Reconstruction, likelihoods and latents; CompressAI's contract and some keys more.

        In training the rate sees uniform noise and the synthesis sees rounded latents with a
        straight-through gradient (the mixed quantisation of Minnen and Singh 2020); in eval both
        see the rounded ones. Latents, scales and likelihoods are fp32 under autocast too.

        Args:
            latent: g_a(x), before the gain, (B, M, h, w); the levels share it.
            level: One level, or one a sample (B,).

        Returns:
            `x_hat` (B, 3, H, W) not clamped; `likelihoods` {`y` (B, M, h, w), `z`}; `y` before
            rounding, `z` before rounding, `y_hat` and `z_hat` after it; `scales` sigma as the
            decoder sees it, and with the prior `mean_scale` `means` likewise.
        """
        batch = latent.shape[0]
        y = latent * self.gain(level, batch)
        z = self.hyper_latent(y)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        if self.training:
            z_hat = self.rounded_hyper_latent(z)
        scales, means = self.coding_gaussians(y, z_hat)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales, means)
        if self.training:
            y_hat = quantised(y, means)
        x_hat = self.g_s(y_hat * self.inverse_gain(level, batch)).float()
        out = {
            "x_hat": x_hat,
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
            "y": y,
            "z": z,
            "y_hat": y_hat,
            "z_hat": z_hat,
            "scales": scales,
        }
        return out if means is None else out | {"means": means}

    # --- real bitstreams -------------------------------------------------------------------------

    def compress_latent(self, latent: Tensor, level: float = 0) -> dict[str, object]:
        """Coded strings of `latent`, g_a(x) before the gain.

        Returns:
            `strings` [[y bytes a sample], [z bytes a sample]]; `shape` of z (h, w); `symbols` the
            integers that are coded and `indexes` of their scales, both (B, M, h, w).
        """
        y = latent * self.gain(level)
        z = self.hyper_latent(y)
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
        scales, means = self.coding_gaussians(y, z_hat)
        prior = self.gaussian_conditional
        symbols, indexes = prior.quantize(y, "symbols", means), prior.build_indexes(scales)
        coded = prior.compress(self._in_turn(symbols), self._in_turn(indexes))
        return {
            "strings": [coded, z_strings],
            "shape": tuple(z.shape[-2:]),
            "symbols": symbols,
            "indexes": indexes,
        }

    def _in_turn(self, values: Tensor) -> Tensor:
        """(B, M, h, w) in the order in which they are coded, (B, M, h, w) or (B, M h w)."""
        if not self.has_context:
            return values
        flat = values.flatten(2)
        return torch.cat([flat[:, :, half].flatten(1) for half in halves(values)], 1)

    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        """Reconstruction `x_hat` clamped to [0, 1], with `symbols` and `indexes` as decoded."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        said, prior = self.gaussians(z_hat), self.gaussian_conditional
        if self.has_context:
            coded, (first, second) = prior.reader(strings[0]), halves(said.scales)
            symbols = torch.zeros_like(said.scales).flatten(2)
            known = prior.build_indexes(said.scales.flatten(2)[:, :, first])
            symbols[:, :, first] = coded.read(known).float()
            said = self._corrected(symbols.view(said.scales.shape), said)
            indexes = prior.build_indexes(said.scales)
            symbols[:, :, second] = coded.read(indexes.flatten(2)[:, :, second]).float()
            symbols = symbols.view(indexes.shape)
        else:
            indexes = prior.build_indexes(said.scales)
            symbols = prior.decompress(strings[0], indexes, z_hat.dtype)
        y_hat = symbols if said.means is None else symbols + said.means
        x_hat = self.g_s(y_hat * self.inverse_gain(level)).clamp(0, 1)
        return {"x_hat": x_hat, "symbols": symbols, "indexes": indexes}


def images_bits(likelihoods: dict[str, Tensor]) -> Tensor:
    """Estimated bits of each image (B,): -log2 of every likelihood, summed."""
    return -sum(
        (p.log2().sum(tuple(range(1, p.ndim))) for p in likelihoods.values()),
        start=torch.zeros(()),
    )
