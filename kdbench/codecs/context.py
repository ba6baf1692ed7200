"""A checkerboard context: one half of the positions of y says more of the other than z does.

After He et al. 2021 (arXiv 2103.15306). Positions whose row and column add up to an odd number are
coded first, as without a context. At the others each channel's scale and mean are corrected by what
is decoded around them, through one 5x5 kernel a channel for each, of which every other tap counts:

    r      = y_hat - mu         the integers that were coded first; 0 at the other positions
    sigma' = a sigma + K |r| + b
    mu'    = mu + L r           from mu = 0 with the prior `scale`

So an image is decoded in two calls of the range decoder, whatever its size, for 0.04 kMAC/px with
192 latents; the heads of published codecs, which mix channels, cost 4 and need a large codec to pay
for it (`benchmarks/context.py`). But for b both sides of each line scale with the gain, so that the
levels share the context. It starts as none at all: a = 1, all else 0.
"""

import torch
from compressai.layers import CheckerboardMaskedConv2d
from torch import Tensor, nn

KERNEL = 5


class Context(nn.Module):
    """See the module.

    Args:
        channels: M.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))
        self.to_scale, self.to_mean = (
            CheckerboardMaskedConv2d(
                channels, channels, KERNEL, padding=KERNEL // 2, groups=channels, bias=has_bias
            )
            for has_bias in (True, False)
        )
        for parameter in (*self.to_scale.parameters(), *self.to_mean.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, residuals: Tensor, scales: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of all positions.

        Args:
            residuals: r, (B, M, h, w); what it is at the second positions does not matter.
            scales: sigma.
            means: mu.
        """
        seen = residuals * coded_first(residuals)
        shift, near = self.to_mean(seen), self.to_scale(seen.abs())
        second = 1 - coded_first(residuals)
        change = near + (self.factor[:, None, None] - 1) * scales
        return scales + second * change, means + second * shift

    @torch.no_grad()
    def take(self, other: "Context", channels: Tensor) -> None:
        """Corrects as `other` does, in place: what a channel needs is told by its own kernels.

        Args:
            other: Of as many channels, or more.
            channels: Those of `other` that this one has.
        """
        theirs = dict(other.named_parameters())
        for name, parameter in self.named_parameters():
            parameter.copy_(theirs[name][channels])


def coded_first(like: Tensor) -> Tensor:
    """1 at the positions that are coded first, 0 at the others, (h, w) of a (B, M, h, w)."""
    rows = torch.arange(like.shape[-2], device=like.device)
    columns = torch.arange(like.shape[-1], device=like.device)
    return ((rows[:, None] + columns) % 2).to(like.dtype)


def halves(like: Tensor) -> tuple[Tensor, Tensor]:
    """Indexes of the positions that are coded first and of the others, into h w, ascending."""
    first = coded_first(like).flatten().bool()
    return first.nonzero()[:, 0], (~first).nonzero()[:, 0]
