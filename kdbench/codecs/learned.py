"""What every learned codec here can do: our hyperprior, and the codecs of other families.

The forward contract of CompressAI's models, with quality levels, and one addition: what does not
depend on the level (g_a) is apart from what does, so that an image is analysed once for all levels.

    latent = g_a(x)                         (B, M, H/16, W/16), the levels share it
    forward_latent(latent, level)           x_hat, likelihoods, latents: estimates, no bitstream
    compress_latent(latent, level)          two strings an image: of the latent, of what predicts it
    decompress(strings, shape, level)       the image that forward_latent gave in eval mode

A level that is no whole number lies between two trained ones: its gains are interpolated
geometrically, a = a_l^(1-t) a_(l+1)^t, and the inverse gains likewise (Cui et al. 2021,
arXiv 2003.02012, eq. 8), so that a codec of a few levels has every quality between them.

Shapes are named in `codecs.base`. `kdbench check --codec NAME` tries all of this on a family.
"""

from collections.abc import Mapping
from typing import Any

import torch
from compressai.models.base import CompressionModel
from torch import Tensor, nn

from kdbench.errors import CodecError
from kdbench.families import PARTS, Part

DOWNSAMPLING = 64  # H and W of x are multiples of this


class LearnedCodec(CompressionModel):  # type: ignore[misc]  # CompressAI has no types
    """A codec of all its levels; subclasses give `g_a`, `g_s` and the three methods that raise.

    Attributes:
        architecture: What it was built as.
        parts: The part of each child, for the split of the multiply-accumulates.
        g_a: (B, 3, H, W) in [0, 1] -> (B, M, H/16, W/16).
        g_s: Its 1-dimensional parameters tell one training from another in a file's check.
    """

    architecture: Any  # AnyArchitecture, narrower in a subclass; `building.build` sets a family's
    parts: Mapping[str, Part] = {
        **{part: part for part in PARTS if part != "entropy_model"},
        "entropy_bottleneck": "entropy_model",
        "gaussian_conditional": "entropy_model",
    }

    def forward(
        self, x: Tensor, level: Tensor | float = 0
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """See `forward_latent`; `x` is (B, 3, H, W) in [0, 1], H and W multiples of 64."""
        return self.forward_latent(self.g_a(x).float(), level)

    def forward_latent(
        self, latent: Tensor, level: Tensor | float = 0
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Reconstruction, likelihoods and latents.

        Args:
            latent: g_a(x), (B, M, h, w).
            level: One level, between two trained ones too, or one a sample (B,).

        Returns:
            `x_hat` (B, 3, H, W), not clamped; `likelihoods`, of each latent that is coded; `y`
            (B, M, h, w), what is rounded, before it is, in quantisation steps; `z` likewise, of a
            codec that has a hyper-latent; `y_hat`, `z_hat` after rounding. `scales`, and `means`
            where there are any, of a codec whose latent is coded by a `gaussian_conditional`.
            Latents and likelihoods are fp32 under autocast, too.

        Raises:
            CodecError: A level this codec was not built for.
        """
        raise NotImplementedError

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
        if hasattr(self, "gaussian_conditional"):
            scales = self.gaussian_conditional.scale_table
            self.gaussian_conditional.scale_table = scales * (scales[1] / scales[0]).sqrt()

    def compress(self, x: Tensor, level: float = 0) -> dict[str, object]:
        """Coded strings of one batch; see `compress_latent`."""
        return self.compress_latent(self.g_a(x), level)

    def compress_latent(self, latent: Tensor, level: float = 0) -> dict[str, object]:
        """Coded strings of `latent`, g_a(x).

        Returns:
            `strings` [[y bytes a sample], [z bytes a sample]], z bytes empty without a
            hyper-latent; `shape` of z (h, w); `symbols` the integers of y that are coded and
            `indexes` of their tables, both of any shape, the same when they are decoded.

        Raises:
            CodecError: A level this codec was not built for.
        """
        raise NotImplementedError

    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        """Reconstruction `x_hat` clamped to [0, 1], with `symbols` and `indexes` as decoded.

        Each string may have zeros behind it.
        """
        raise NotImplementedError

    @property
    def has_integer_prior(self) -> bool:
        """Whether what predicts the latent is computed in integers, the same on any machine."""
        return False

    # --- levels ----------------------------------------------------------------------------------

    def make_gains(self, n_levels: int, channels: int) -> None:
        """Registers a_l = b_l = 1 of every latent channel; nothing where there is one level."""
        if n_levels > 1:
            self.log_gain = nn.Parameter(torch.zeros(n_levels, channels))
            self.log_inverse_gain = nn.Parameter(torch.zeros(n_levels, channels))

    def gain(self, level: Tensor | float, batch: int = 1) -> Tensor:
        """a_l, (B, M, 1, 1); ones where the codec has one level."""
        return self._gain("log_gain", level, batch)

    def inverse_gain(self, level: Tensor | float, batch: int = 1) -> Tensor:
        """b_l, (B, M, 1, 1); learned apart from a_l."""
        return self._gain("log_inverse_gain", level, batch)

    def _gain(self, name: str, level: Tensor | float, batch: int) -> Tensor:
        levels = self.checked_levels(level, batch)
        if self.architecture.n_levels == 1:
            return torch.ones(batch, 1, 1, 1, device=next(self.parameters()).device)
        logarithms: Tensor = getattr(self, name)
        if levels.is_floating_point():
            below = levels.floor().long().clamp(max=self.architecture.n_levels - 2)
            part = (levels - below)[:, None].to(logarithms)
            between = torch.lerp(logarithms[below], logarithms[below + 1], part)
            return between.exp()[:, :, None, None]
        return logarithms[levels].exp()[:, :, None, None]

    def checked_levels(self, level: Tensor | float, batch: int) -> Tensor:
        """`level` as a (B,) tensor, of whole numbers where it is one of the trained levels.

        Raises:
            CodecError: A level outside those that this codec was built for.
        """
        n = self.architecture.n_levels
        if isinstance(level, float) and level.is_integer():
            level = int(level)
        levels = level if isinstance(level, Tensor) else torch.tensor(level).expand(batch)
        if not (float(levels.min()) >= 0 and float(levels.max()) <= n - 1):  # NaN is neither
            raise CodecError(
                f"level {levels.tolist()} is outside the trained levels 0 to {n - 1}",
                fix="choose one of the codec's levels, or a quality between them; outside of them "
                "nothing was trained",
            )
        return levels
