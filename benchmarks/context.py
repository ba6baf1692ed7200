"""What a checkerboard context would save of the bits of `teacher:default`, and for how many MAC.

    python -m benchmarks.context                                  about 2 minutes on a free core
    python -m benchmarks.context --heads refit --steps 3 --crops 16                        a test

After He et al. 2021 (arXiv 2103.15306): half of the positions of y, like the white fields of a
chess board, are coded as ever; of the other half, means and scales are corrected by a head that has
seen the first half decoded. All of the codec is frozen and what is coded are the same integers, so
images stay the same and bits saved are BD-rate. The Gaussian of the second half is integrated over
the bin of each integer, whatever its mean, which a coder does by tables or by coding the distance
from the rounded mean. Heads, on the live channels (C, those that are ever coded):

    refit       no context: an offset for each level and channel, and a factor for log sigma.
                What a better fit of the frozen codec is worth; all others have it
    linear      what a codec with `hyper.context: checkerboard` has (`codecs.context`): two 5x5
                kernels a channel, neighbours to the mean, |.| of them to sigma
    depthwise   two 5x5 kernels a channel: neighbours to the mean, log(1 + |.|) of them to log sigma
    mixed       besides, these two and log sigma through 1x1 layers, 3 C to `HIDDEN` to 2 C
    full        CompressAI's: 5x5 from C to 2 C, and 1x1 from 3 C to C to 2 C

Trained on the integers of the built-in training crops, each at one level a step; bits are estimates
on the built-in evaluation photos. kMAC/px as a plain convolution computes it: at every position,
with all taps. The positions and taps that count are half of them each.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compressai.layers import CheckerboardMaskedConv2d
from torch import Tensor, nn

from benchmarks.publish import add_out, markdown, publish
from kdbench.codecs.bitfile import to_tensor
from kdbench.codecs.context import Context
from kdbench.codecs.hyperprior import Hyperprior
from kdbench.codecs.regression import in_chunks
from kdbench.lesson import study_crops, study_photos
from kdbench.teacher import load_teacher

TEACHER = "teacher:default"
HEADS = ("refit", "linear", "depthwise", "mixed", "full")
HIDDEN = 64
KERNEL = 5
CODED = 1e-4  # share of a live channel's symbols that are not 0, at the highest level
BATCH = 32
RATE = 5e-3
FULL_RATE = 1e-3  # of `full`, which has a thousand times the weights of the others
POSITION_PX = 16**2


class Coded(NamedTuple):
    """What the codec makes of images at one level each.

    Attributes:
        symbols: Integers of y, (B, C, h, w).
        scales: Of each, bounded as the coder bounds them.
        levels: (B,).
        z_bits: Of all images.
    """

    symbols: Tensor
    scales: Tensor
    levels: Tensor
    z_bits: float


def anchors(height: int, width: int) -> Tensor:
    """1 where a position is coded first, 0 elsewhere, (h, w)."""
    rows, columns = torch.arange(height), torch.arange(width)
    return ((rows[:, None] + columns) % 2).float()


@torch.no_grad()
def coded(model: Hyperprior, latents: Tensor, level: int) -> Coded:
    """Of latents before the gain, (B, M, h, w)."""
    y = latents * model.gain(level)
    z_hat, z_likelihoods = model.entropy_bottleneck(model.hyper_latent(y))
    scales = model.gaussian_conditional.lower_bound_scale(model.gaussians(z_hat).scales)
    levels = torch.full((len(y),), level)
    return Coded(y.round(), scales, levels, -float(z_likelihoods.log2().sum()))


def bits(symbols: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Of each integer, under a Gaussian that is integrated over its bin."""
    distances = (symbols - means).abs()
    steepness = 1 / (math.sqrt(2) * scales)
    p = torch.erfc((distances - 0.5) * steepness) - torch.erfc((distances + 0.5) * steepness)
    return -(0.5 * p).clamp_min(1e-9).log2()


class Head(nn.Module):
    """Means and scales of the second half from the first."""

    def __init__(self, kind: str, channels: int, n_levels: int) -> None:
        super().__init__()
        C, self.kind = channels, kind
        if kind == "linear":
            self.linear = Context(C)
            return
        self.offset = nn.Parameter(torch.zeros(n_levels, C))
        self.factor = nn.Parameter(torch.ones(C))
        if kind in ("depthwise", "mixed"):
            self.to_mean, self.to_scale = (self._masked(C, C, groups=C) for _ in range(2))
            self.trust = nn.Parameter(torch.ones(n_levels, C))
        if kind == "mixed":
            self.mix = nn.Sequential(
                nn.Conv2d(3 * C, HIDDEN, 1), nn.LeakyReLU(), nn.Conv2d(HIDDEN, 2 * C, 1)
            )
        if kind == "full":
            self.context = self._masked(C, 2 * C)
            self.mix = nn.Sequential(nn.Conv2d(3 * C, C, 1), nn.LeakyReLU(), nn.Conv2d(C, 2 * C, 1))
        for name, layer in self.named_modules():
            if name in ("to_mean", "to_scale", "mix.2"):  # starts as the codec is
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @staticmethod
    def _masked(n_in: int, n_out: int, groups: int = 1) -> nn.Conv2d:
        layer: nn.Conv2d = CheckerboardMaskedConv2d(
            n_in, n_out, KERNEL, padding=KERNEL // 2, groups=groups
        )
        return layer

    @property
    def kmac_per_px(self) -> float:
        """Of all its convolutions, at every position."""
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        return sum(layer.weight.numel() for layer in layers) / POSITION_PX / 1000

    def forward(self, first: Tensor, scales: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales everywhere; those of the second half count.

        Args:
            first: Integers, 0 in the second half, (B, C, h, w).
            scales: The codec's.
            levels: (B,).
        """
        if self.kind == "linear":
            scales, means = self.linear(first, scales, torch.zeros_like(scales))
            return means, scales
        logs = scales.log()
        change = (self.factor[:, None, None] - 1) * logs + self.offset[levels][..., None, None]
        means = torch.zeros_like(logs)
        sizes = first.abs().log1p()
        if self.kind in ("depthwise", "mixed"):
            around, near = self.to_mean(first), self.to_scale(sizes)
            means = means + around * self.trust[levels][..., None, None]
            change = change + near
        if self.kind == "mixed":
            shift, more = self.mix(torch.cat([around / scales, near, logs], 1)).chunk(2, 1)
            means, change = means + shift * scales, change + more
        if self.kind == "full":
            seen = self.context(first.sign() * sizes)
            shift, more = self.mix(torch.cat([seen, logs], 1)).chunk(2, 1)
            means, change = means + shift * scales, change + more
        return means, scales * change.clamp(-3, 3).exp()


def second_half_bits(head: Head, given: Coded) -> Tensor:
    """Bits of each integer of the second half with `head`, 0 in the first."""
    is_first = anchors(*given.symbols.shape[-2:])
    means, scales = head(given.symbols * is_first, given.scales, given.levels)
    return bits(given.symbols, means, scales.clamp_min(0.11)) * (1 - is_first)


def trained(kind: str, given: Sequence[Coded], steps: int, seed: int) -> Head:
    """A head that was trained on crops, `given` at each level."""
    torch.manual_seed(seed)
    n, n_levels = len(given[0].symbols), len(given)
    head = Head(kind, given[0].symbols.shape[1], n_levels)
    optimiser = torch.optim.Adam(head.parameters(), lr=FULL_RATE if kind == "full" else RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        which, levels = torch.randint(n, (BATCH,)), torch.randint(n_levels, (BATCH,))
        pairs = list(zip(levels.tolist(), which.tolist(), strict=True))
        symbols = torch.stack([given[level].symbols[i] for level, i in pairs])
        scales = torch.stack([given[level].scales[i] for level, i in pairs])
        loss = second_half_bits(head, Coded(symbols, scales, levels, 0.0)).sum() / BATCH
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return head.eval()


@torch.no_grad()
def saved(head: Head, photos: Sequence[Sequence[Coded]]) -> list[dict[str, float]]:
    """One row a level: bits of all photos as they are, and those that `head` saves [%]."""
    rows = []
    for level in range(len(photos[0])):
        before = after = z_bits = second = 0.0
        for photo in photos:
            given = photo[level]
            own = bits(given.symbols, torch.zeros(()), given.scales)
            is_first = anchors(*own.shape[-2:])
            second_own = float((own * (1 - is_first)).sum())
            before += float(own.sum())
            second += second_own
            after += float(own.sum()) - second_own + float(second_half_bits(head, given).sum())
            z_bits += given.z_bits
        rows.append(
            {
                "level": level,
                "y_bits": before,
                "z_bits": z_bits,
                "second_half_pct": 100 * (before - after) / second,
                "y_pct": 100 * (before - after) / before,
                "file_pct": 100 * (before - after) / (before + z_bits),
            }
        )
    return rows


def table(heads: Sequence[Mapping[str, Any]]) -> str:
    """One row a head: what it costs and what it saves of a file at each level."""
    cells = [
        [
            at["head"],
            f"{at['kmac_per_px']:.3f}",
            f"{at['seconds']:.0f}",
            *(f"{row['file_pct']:.2f}" for row in at["levels"]),
            f"{sum(row['y_pct'] for row in at['levels']) / len(at['levels']):.2f}",
            f"{sum(row['file_pct'] for row in at['levels']) / len(at['levels']):.2f}",
        ]
        for at in heads
    ]
    names = [f"level {row['level']}" for row in heads[0]["levels"]]
    return markdown(["head", "kMAC/px", "CPU s", *names, "y, mean", "file, mean"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crops", type=int, default=768, help="training crops, built-in photos")
    add_out(parser, "context")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = study_photos("builtin", "builtin", "builtin", 128)
    model = load_teacher(TEACHER).model
    with tempfile.TemporaryDirectory(prefix="kdbench-context-") as folder:
        pixels = study_crops(photos["train"], arguments.crops, 128).crops(Path(folder))
        latents = in_chunks(model.g_a, torch.from_numpy(pixels[:]).float() / 255)
    levels = range(model.architecture.n_levels)
    crops = [coded(model, latents, level) for level in levels]
    live = (crops[-1].symbols != 0).float().mean((0, 2, 3)) > CODED

    def only_live(given: Coded) -> Coded:
        return given._replace(symbols=given.symbols[:, live], scales=given.scales[:, live])

    crops = [only_live(given) for given in crops]
    unseen = []
    for i in range(photos["evaluation"].n):
        with torch.no_grad():
            latent = model.g_a(to_tensor(photos["evaluation"].image(i)))
        unseen.append([only_live(coded(model, latent, level)) for level in levels])
    found: list[dict[str, Any]] = []
    for kind in arguments.heads:
        began = time.process_time()
        head = trained(kind, crops, arguments.steps, arguments.seed)
        row = {
            "head": kind,
            "kmac_per_px": head.kmac_per_px,
            "seconds": time.process_time() - began,
            "levels": saved(head, unseen),
            "levels_of_training_crops": saved(head, [crops]),
        }
        print(row, flush=True)
        found.append(row)
    text = f"{int(live.sum())} of {len(live)} latents are live\n\n{table(found)}"
    publish(arguments, text, {"live_latents": int(live.sum()), "heads": found})


if __name__ == "__main__":
    main()
