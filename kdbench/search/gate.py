"""Whether a trial goes on: asked at each rung, it decides and remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdbench.records import Rung
from kdbench.search.objectives import broken


@dataclass(slots=True)
class CostGate:
    """Says no at the first cost above its limit; remembers what it saw."""

    limits: Mapping[str, float]
    costs: dict[str, float] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)

    def __call__(self, rung: Rung) -> bool:
        """Whether the trial goes on."""
        if rung.stage == "cost":
            self.costs |= rung.values
            self.refusals = broken(self.limits, self.costs)
        return not self.refusals
