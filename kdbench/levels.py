"""Distillation where levels have teachers of their own, each of one rate."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from kdbench.distill import Distiller, Targets
from kdbench.errors import TrainingError
from kdbench.features import FeatureTerm
from kdbench.metrics import MSE, Metric
from kdbench.records import AnyArchitecture, Distillation, Offer


class Guided(NamedTuple):
    """What one of several teachers gives: targets of the `rows` (k,) of a batch that it guides."""

    rows: Tensor
    targets: Targets


class LevelDistiller(nn.Module):
    """The terms of a student whose levels have teachers of their own, each of one rate.

    Every teacher has connectors of its own, for models of several rates were trained apart and
    share no coordinates, while a student's levels do; a single one needs none at equal widths.
    Samples of a level that nobody guides have no terms. All terms are means over the whole batch:
    a guided sample's weigh what they weigh where all are guided.
    """

    def __init__(
        self,
        plan: Distillation,
        student: AnyArchitecture,
        teachers: Sequence[Offer],
        *,
        connect: bool = False,
        metric: Metric = MSE,
    ) -> None:
        """One teacher or more; `connect` and `metric` as `Distiller`.

        Raises:
            TrainingError: As `Distiller`, or the entropy term with several teachers.
        """
        super().__init__()
        several = len(teachers) > 1
        if several and plan.entropy > 0:
            raise TrainingError(
                "the entropy term compares channel by channel, and teachers of several rates each "
                "have coordinates of their own",
                fix="set `distillation.entropy` to 0, or name one quality as teacher",
            )
        self._plan = plan
        each = [
            Distiller(plan, student, teacher, connect=several or connect, metric=metric)
            for teacher in teachers
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
        for distiller, (rows, targets) in zip(self.each, guided, strict=True):
            if len(rows) == 0:
                continue
            own = {name: out[name][rows] for name in Targets._fields if name in out}
            share = len(rows) / len(rd_lambda)
            for name, term in distiller(own, targets, rd_lambda[rows], weights).items():
                terms[name] = terms.get(name, 0) + share * term
        return terms
