"""Distillation where levels or terms have teachers of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from kdbench.distill import Distiller, Targets
from kdbench.errors import TrainingError
from kdbench.features import FeatureTerm
from kdbench.metrics import MSE, Metric
from kdbench.records import WEIGHTS, AnyArchitecture, Distillation, Offer


class Guided(NamedTuple):
    """What one of several teachers gives: targets of the `rows` (k,) of a batch that it guides."""

    rows: Tensor
    targets: Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """One of several teachers, as a student meets it.

    Attributes:
        terms: Of the loss, that it serves.
        several: Whether others serve the same terms at other levels.
        connect: Whether its latents need a connector even where they are as wide as the student's:
            one of several, or one in whose coordinates the student did not start while it did in
            another's.
        channels: See `Distiller`.
        channel_bits: Likewise.
    """

    offer: Offer
    terms: frozenset[str] = frozenset(WEIGHTS)
    several: bool = False
    connect: bool = False
    channels: Sequence[int] | None = None
    channel_bits: Tensor | None = None


class LevelDistiller(nn.Module):
    """The terms of a student whose levels or terms have teachers of their own.

    Every teacher has connectors of its own, for models of several rates were trained apart and
    share no coordinates, while a student's levels do; a single one needs none at equal widths.
    Samples of a level that nobody guides have no terms. All terms are means over the whole batch:
    a guided sample's weigh what they weigh where all are guided.
    """

    def __init__(
        self,
        plan: Distillation,
        student: AnyArchitecture,
        teachers: Sequence[Guide],
        *,
        metric: Metric = MSE,
    ) -> None:
        """One teacher or more; `connect` and `metric` as `Distiller`.

        Raises:
            TrainingError: As `Distiller`, or the entropy term with several teachers.
        """
        super().__init__()
        if plan.entropy > 0 and any(one.several for one in teachers if "entropy" in one.terms):
            raise TrainingError(
                "the entropy term compares channel by channel, and teachers of several rates each "
                "have coordinates of their own",
                fix="set `distillation.entropy` to 0, or name one quality as teacher",
            )
        self._plan, self._terms = plan, [one.terms for one in teachers]
        each = [
            Distiller(
                _served(plan, one.terms),
                student,
                one.offer,
                one.channels,
                one.channel_bits,
                connect=one.connect,
                metric=metric,
            )
            for one in teachers
        ]
        self.each = nn.ModuleList(each)

    @property
    def plan(self) -> Distillation:
        """What every teacher's terms follow."""
        return self._plan

    def set_feature_term(self, teacher: int, term: FeatureTerm) -> None:
        """The term of one of the teachers, by its place."""
        self.each[teacher].feature_term = term

    def forward(
        self,
        out: dict[str, Tensor],
        guided: Sequence[Guided],
        rd_lambda: Tensor,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Each term, weighted as `Distiller.forward` does; none where no sample is guided."""
        terms: dict[str, Tensor] = {}
        now = self._plan.weights if weights is None else weights
        for distiller, terms_of, (rows, targets) in zip(
            self.each, self._terms, guided, strict=True
        ):
            if len(rows) == 0:
                continue
            served = {name: weight for name, weight in now.items() if name in terms_of}
            own = {name: out[name][rows] for name in Targets._fields if name in out}
            share = len(rows) / len(rd_lambda)
            for name, term in distiller(own, targets, rd_lambda[rows], served).items():
                terms[name] = terms.get(name, 0) + share * term
        return terms


def _served(plan: Distillation, terms: frozenset[str]) -> Distillation:
    """`plan` without the terms that another teacher serves."""

    def weight(term: str) -> float:
        return plan.weights.get(term, 0.0) if term in terms else 0.0

    return replace(
        plan,
        latent=weight("latent"),
        hyper_latent=weight("hyper_latent"),
        output=weight("output"),
        entropy=weight("entropy"),
        features=weight("features"),
        channel_weights=plan.channel_weights if "latent" in terms else "equal",
    )
