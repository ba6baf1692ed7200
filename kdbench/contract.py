"""What is asked of a teacher, whoever made it."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from kdbench.records import Offer


class Teaches(Protocol):
    """What is asked of a teacher.

    Its levels share a latent y up to gains; a teacher of one rate has one level. Photos are a
    multiple of 64 px a side, y is a sixteenth of that and z a sixty-fourth.
    """

    @property
    def name(self) -> str:
        """What a study calls it."""

    @property
    def sha(self) -> str:
        """Hash of what it consists of: caches and specs stand on it."""

    @property
    def rd_lambdas(self) -> tuple[float, ...]:
        """What each of its levels was trained for, ascending."""

    @property
    def offer(self) -> Offer:
        """What it has, and how wide."""

    def levels_for(self, rd_lambdas: Sequence[float]) -> tuple[int, ...]:
        """Its level for each of `rd_lambdas`; CodecError where it has none."""

    def gains(self, levels: Sequence[int]) -> Tensor:
        """What y is multiplied by at each of `levels`, (L, M or 1, 1, 1); ones at one rate."""

    def rounded_hyper_latent(self, z: Tensor) -> Tensor:
        """`z` as its decoder sees it: rounded where it lies from the medians of its prior."""

    def outputs(
        self, crops: Tensor, levels: Sequence[int], feature_layer: str | None = None
    ) -> dict[str, Tensor]:
        """What the cache stores of uint8 `crops` (B, 3, H, W), by name, in the types it stores.

        Raises:
            TrainingError: There is no `feature_layer`.
        """
