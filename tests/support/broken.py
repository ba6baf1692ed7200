"""Codec families that each break one clause of the contract, and otherwise are the example's elic.

Needs `kdbench_elic` on the path (`tests.support.packages.install_elic`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from kdbench_elic import FAMILY
from kdbench_elic.model import Elic, start
from torch import Tensor, nn

from kdbench.families import Family, Values

STARTED: list[bool] = []


def built_by(kind: Callable[..., nn.Module]) -> Callable[[Values, int], nn.Module]:
    return lambda values, n_levels: kind(**values, n_levels=n_levels)


def family(kind: Callable[..., nn.Module], **changes: Any) -> Family:
    return replace(FAMILY, build=built_by(kind), **changes)


class NoCodec(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()


class RoundsY(Elic):
    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out = super().forward_latent(latent, level)
        return {**out, "y": out["y_hat"]}


class HalfY(Elic):
    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out: dict[str, Any] = super().forward_latent(latent, level)
        return {**out, "y": 0.5 * out["y"]}


class Unused(Elic):
    def __init__(self, **sizes: int) -> None:
        super().__init__(**sizes)
        self.unused = nn.Parameter(torch.zeros(3))


class Detached(Elic):
    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out: dict[str, Any] = super().forward_latent(latent, level)
        rounded = out["y_hat"].detach() * self.inverse_gain(level, len(latent))
        return {**out, "x_hat": self.g_s(rounded)}


class StaysInTraining(Elic):
    def finalise(self) -> None:
        super().finalise()
        self.train()


class ClampsLevels(Elic):
    def checked_levels(self, level: Tensor | float, batch: int) -> Tensor:
        n = self.architecture.n_levels
        return torch.as_tensor(level).clamp(0, n - 1).expand(batch)


class FinalisesFurther(Elic):
    @torch.no_grad()
    def finalise(self) -> None:
        super().finalise()
        self.log_gain.add_(0.1)


class Noisy(Elic):
    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out: dict[str, Any] = super().forward_latent(latent, level)
        return {**out, "x_hat": out["x_hat"] + 1e-3 * torch.rand(())}


class Forgetful(Elic):
    shift = 0.0

    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out: dict[str, Any] = super().forward_latent(latent, level)
        return {**out, "x_hat": out["x_hat"] + self.shift}


class DecodesOtherwise(Elic):
    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        out = super().decompress(strings, shape, level)
        return {**out, "x_hat": out["x_hat"].flip(1)}


class LosesTheOrder(Elic):
    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        out = super().decompress(strings, shape, level)
        return {**out, "symbols": out["symbols"] + 1}


class DecodesHereAlone(Elic):
    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float = 0
    ) -> dict[str, Tensor]:
        out = super().decompress(strings, shape, level)
        return out if STARTED else {**out, "x_hat": out["x_hat"].flip(1)}


class Overestimates(Elic):
    def forward_latent(self, latent: Tensor, level: Tensor | float = 0) -> dict[str, Any]:
        out: dict[str, Any] = super().forward_latent(latent, level)
        return {**out, "likelihoods": {k: p**1.1 for k, p in out["likelihoods"].items()}}


def start_otherwise_each_time(model: Any, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    start(model, crops, rd_lambdas)
    STARTED.append(True)
    model.log_gain.data += 1e-3 * len(STARTED)


def start_upside_down(model: Any, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    start(model, crops, list(rd_lambdas)[::-1])


def start_and_remember(model: Any, crops: Tensor, rd_lambdas: Sequence[float]) -> None:
    start(model, crops, rd_lambdas)
    STARTED.append(True)
    model.shift = 0.01


def offer_a_wider_z(values: Values) -> Any:
    return replace(FAMILY.offer(values), hyper_width=99)


def refuse(values: Values, n_levels: int) -> nn.Module:
    raise ValueError("blocks of 1 are out of stock")


no_codec = family(NoCodec)
refuses = replace(FAMILY, build=refuse)
wanders = family(Elic, start=start_otherwise_each_time)
overstates = family(Elic, offer=offer_a_wider_z)
rounds = family(RoundsY)
halves = family(HalfY)
upside_down = family(Elic, start=start_upside_down)
partless = family(Elic, parts={k: v for k, v in FAMILY.parts.items() if k != "predict"})
unused = family(Unused)
detached = family(Detached)
in_training = family(StaysInTraining)
clamps = family(ClampsLevels)
further = family(FinalisesFurther)
noisy = family(Noisy)
forgetful = family(Forgetful, start=start_and_remember)
otherwise = family(DecodesOtherwise)
disordered = family(LosesTheOrder)
here_alone = family(DecodesHereAlone, start=start_and_remember)
overestimates = family(Overestimates)
nothing = None
axisless = replace(FAMILY, axes={}, example={})
strange_axis = replace(FAMILY, axes={**FAMILY.axes, "odd": 3})  # type: ignore[dict-item]
exampleless = replace(FAMILY, example={"encoder": 16})
strange_part = replace(FAMILY, parts={**FAMILY.parts, "context": "elsewhere"})  # type: ignore[dict-item]
other_name = replace(FAMILY, parts={**FAMILY.parts, "g_a": "h_a"})
NAMES = [name for name, value in list(globals().items()) if isinstance(value, Family)]
