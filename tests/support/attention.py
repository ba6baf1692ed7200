"""A codec by another hand: self-attention over 16x16 patches, with a mean-scale hyperprior.

Written as a package that knows nothing of kdbench would write it; `bring` makes it one that is
installed.
"""

from importlib import metadata
from typing import Any

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from kdbench.plugins import GROUP

PATCH_PX = 16


class Attention(nn.Module):
    """Patches -> tokens -> one block of self-attention -> M channels a patch."""

    def __init__(self, M: int, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, PATCH_PX, PATCH_PX)
        self.norm = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.project = nn.Conv2d(width, M, 1)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x)
        tokens = patches.flatten(2).transpose(1, 2)
        seen = self.norm(tokens)
        mixed = tokens + self.attend(seen, seen, seen, need_weights=False)[0]
        y: Tensor = self.project(mixed.transpose(1, 2).reshape(patches.shape))
        return y


class AttentionCodec(nn.Module):
    """CompressAI's forward contract, and none of its classes."""

    def __init__(self, M: int = 24, width: int = 12) -> None:
        super().__init__()
        self.g_a = Attention(M)
        self.g_s = nn.ConvTranspose2d(M, 3, PATCH_PX, PATCH_PX)
        self.h_a = nn.Sequential(
            nn.Conv2d(M, width, 5, 2, 2), nn.GELU(), nn.Conv2d(width, width, 5, 2, 2)
        )
        self.h_s = nn.Sequential(nn.ConvTranspose2d(width, 2 * M, 4, 4), nn.Softplus())
        self.entropy_bottleneck = EntropyBottleneck(width)
        self.gaussian_conditional = GaussianConditional(None)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales, means=means)
        return {
            "x_hat": self.g_s(y_hat),
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
        }


class Eighth(AttentionCodec):
    """Its patches are 8x8: no student meets it there."""

    def __init__(self) -> None:
        super().__init__()
        self.g_a.embed = nn.Conv2d(3, 16, 8, 8)
        self.g_s = nn.ConvTranspose2d(24, 3, 8, 8)


def _seeded(seed: int, **sizes: int) -> AttentionCodec:
    torch.manual_seed(seed)
    return AttentionCodec(**sizes)


def one() -> dict[float, nn.Module]:
    """A teacher of one rate."""
    return {0.0067: _seeded(0)}


def two() -> dict[float, nn.Module]:
    """Two rates, of other widths."""
    return {0.013: _seeded(2, M=32), 0.0018: _seeded(1)}


def eighth() -> dict[float, nn.Module]:
    """One that cannot be met."""
    return {0.0067: Eighth()}


def broken() -> dict[float, nn.Module]:
    """One whose weights are not there."""
    raise FileNotFoundError("no weights at /opt/vit.pt")


def odd() -> list[nn.Module]:
    """Not a mapping."""
    return [_seeded(0)]


def bring(patch: pytest.MonkeyPatch, **brought: str) -> None:
    """As if an installed package brought these teachers: name -> function of this module."""
    points = metadata.EntryPoints(
        metadata.EntryPoint(name, value if ":" in value else f"{__name__}:{value}", GROUP)
        for name, value in brought.items()
    )
    real = metadata.entry_points

    def entry_points(**wanted: Any) -> Any:
        return points if wanted == {"group": GROUP} else real(**wanted)

    patch.setattr(metadata, "entry_points", entry_points)
