"""Whether a trial goes on: asked at each rung, it decides and remembers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdbench.config import Ladder
from kdbench.records import Rung
from kdbench.search.ladder import goes_on
from kdbench.search.objectives import broken, on_the_way
from kdbench.search.prospects import Hopeless, hopeless

Finished = Callable[[], Mapping[int, Mapping[str, float]]]
Others = Callable[[int], Sequence[Mapping[str, float]]]


@dataclass(slots=True, kw_only=True)
class TrialGate:
    """Says no at the first cost above its limit, and where others did better; remembers all of it.

    Attributes:
        limits: Upper bounds by the name of the cost.
        objectives: Of the study.
        ladder: Where others are asked; None: nowhere.
        others: What other trials showed after so many steps.
        finished: What complete trials found and cost, by number; None: costs refuse nobody.
        keep: Told every rung so far, before anything is decided.
        costs: What is known of them by now.
        refusals: The limits that are broken.
        rungs: What the trial showed on its way, with its costs; those of an earlier attempt, too.
        hopeless: Why no plausible quality would bring it to the front, told by its costs.
        beaten_by: The trial that says so.
        stopped_at: The rung where others did better.
        n_there: Trials that were compared at the last rung.
    """

    limits: Mapping[str, float]
    objectives: Sequence[str] = ()
    ladder: Ladder | None = None
    others: Others = lambda _: ()
    finished: Finished | None = None
    keep: Callable[[tuple[Rung, ...]], None] = lambda _: None
    costs: dict[str, float] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    rungs: tuple[Rung, ...] = ()
    hopeless: Hopeless | None = None
    beaten_by: int | None = None
    stopped_at: Rung | None = None
    n_there: int = 0

    def __call__(self, rung: Rung) -> bool:
        """Whether the trial goes on."""
        if rung.stage == "cost":
            self.costs |= rung.values
            self.refusals = broken(self.limits, self.costs)
            if not self.refusals and self.finished is not None:
                self._judge(self.finished())
            return not self.refusals and self.hopeless is None
        rung = replace(rung, values={**self.costs, **rung.values})
        self.rungs = (*(known for known in self.rungs if known.step < rung.step), rung)
        self.keep(self.rungs)
        if self.ladder is None or not self.ladder.stop:
            return True
        others = [on_the_way(self.objectives, values) for values in self.others(rung.step)]
        self.n_there = len(others) + 1
        if not goes_on(on_the_way(self.objectives, rung.values), others, self.ladder.eta):
            self.stopped_at = rung
        return self.stopped_at is None

    def _judge(self, finished: Mapping[int, Mapping[str, float]]) -> None:
        self.hopeless = hopeless(self.objectives, list(finished.values()), self.costs)
        if self.hopeless is not None:
            self.beaten_by = list(finished)[self.hopeless.beaten_by]
