"""What `kdbench measure` does: energy and time of trained students again, without training.

Here, or on another machine from a copied study folder. What it finds lies beside what the trial
recorded, in a file of its own; nothing is written over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import CodecError, MeterError
from kdbench.records import CodecEnergy
from kdbench.rerun import recorded
from kdbench.store import Measurement, Store, StoredTrial

if TYPE_CHECKING:
    from kdbench.data import ImageSet
    from kdbench.records import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Remeasured:
    """One trial's energy and time, recorded and again.

    Attributes:
        then: Of the trained student where the search measured that, else of the started one; None
            where the study had no meter.
        file: Where `now` is kept.
    """

    number: int
    then: CodecEnergy | None
    now: Measurement
    file: Path

    @property
    def why_not_compared(self) -> str | None:
        """Why the two figures are not one quantity; None where they are."""
        then, now = self.then, self.now.energy
        if then is None:
            return "nothing was recorded"
        if then.source != now.source:
            return f"{then.source} then, {now.source} now: these are never compared"
        if then.decode.protocol != now.decode.protocol:
            return f"protocol {then.decode.protocol} then, {now.decode.protocol} now"
        if then.decode.meter != now.decode.meter:
            return f"meter {then.decode.meter} then, {now.decode.meter} now"
        return None

    @property
    def shift_pct(self) -> float | None:
        """Energy now over that then [%]; None where they are not one quantity."""
        if self.then is None or self.why_not_compared:
            return None
        return 100 * (self.now.energy.j_per_mpx / self.then.j_per_mpx - 1)

    @property
    def same_device(self) -> bool | None:
        """Whether device, versions and threads have the fingerprint of then."""
        return None if self.then is None else self.then.device == self.now.energy.device


def measure_again(
    store: Store,
    study: str,
    trials: Sequence[StoredTrial],
    *,
    device: str | None,
    on_trial: Callable[[int, int], None] = lambda done, n: None,
) -> list[Remeasured]:
    """Measures the students of `trials` one after the other, and keeps what it finds.

    Meter and windows are the study's; where that had none, the best meter here.

    Args:
        store: Where the study is.
        study: Its name.
        trials: Complete ones of it.
        device: In the place of the study's.
        on_trial: Told the trials done and their number.

    Raises:
        KdbenchError: A trial without result or student, no meter here, or photos that are not.
    """
    from kdbench.config import bench, from_settings
    from kdbench.data import load_images
    from kdbench.device import resolve

    students = [_student(study, trial) for trial in trials]
    config = from_settings(store.load_study(study).settings, f"study.json of {study}")
    setting = bench(config, cache=store.cache, device=resolve(device or config.device))
    if config.target is not None:  # its plan is that of the device that measures
        setting = replace(setting, energy=config.energy)
    if setting.energy.meter == "none":
        setting = replace(setting, energy=replace(setting.energy, meter="auto"))
    images = load_images(setting.data.evaluation, "evaluation")
    done: list[Remeasured] = []
    for trial, student in zip(trials, students, strict=True):
        on_trial(len(done), len(trials))
        done.append(_measured(store, study, trial, student, images=images, bench=setting))
    return done


def _student(study: str, trial: StoredTrial) -> Path:
    """The middle one of its models, which the search measured, too."""
    from kdbench.anchor import recorded_students

    recorded(trial)
    paths = recorded_students(trial)
    if not paths:
        raise CodecError(
            f"trial {trial.number} of {study} has no trained student",
            fix="copy its folder whole, student.safetensors with it",
        )
    return paths[len(paths) // 2]


def _measured(
    store: Store,
    study: str,
    trial: StoredTrial,
    student: Path,
    *,
    images: "ImageSet",
    bench: "Bench",
) -> Remeasured:
    from kdbench.codecs.weights import file_sha, load_codec
    from kdbench.cost import energy_of
    from kdbench.device import environment, fingerprint
    from kdbench.lease import host_lease

    model = load_codec(student)[0].to(bench.device)
    energy = energy_of(model, images, bench, host_lease(), fresh=True)
    if energy is None:
        raise MeterError(
            "no energy meter works here", fix="`kdbench doctor` says which there are, and why not"
        )
    now = Measurement(
        energy=energy,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        student=file_sha(student),
        environment=environment() | fingerprint(bench.device, threads=bench.threads),
        photo=images.names[0],
    )
    result = recorded(trial)
    return Remeasured(
        number=trial.number,
        then=trial.trained_energy or result.energy,
        now=now,
        file=store.save_measurement(study, trial.number, now),
    )
