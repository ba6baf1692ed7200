"""What the machine adds to a study, and what a study cannot begin without."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.data import load_images
from kdbench.errors import CodecError, ConfigError, MeterError, StoreError
from kdbench.lesson import study_crops
from kdbench.records import MEASUREMENT_PROTOCOL, Coordinates
from kdbench.search.ground import Ground, _meter, _require_usable, survey
from kdbench.store import Store
from kdbench.teacher import load_teacher, size_gib
from tests.support import search as stub
from tests.support.codecs import architecture, save_teacher
from tests.support.results import make_study

FIVE = (0.001, 0.003, 0.01, 0.03, 0.1)  # of the stub's study
TEACHERS = "space.distillation={teacher: ['teacher:a', none], entropy: 0.5}"


def ground() -> Ground:
    return Ground(
        device="cpu",
        teachers={"teacher:a": "aaaa", "teacher:b": "bbbb"},
        teacher_coordinates={
            "teacher:a": Coordinates(64, "scale"),
            "teacher:b": Coordinates(128, "scale"),
        },
        crops="c0ffee",
        anchor="a2c4",
        meter="powercap (counter)",
        fingerprint={"cpu": "abacus", "threads": "1"},
    )


def test_a_resume_must_find_everything_again() -> None:
    assert ground().fixed == {
        "anchor": "a2c4",
        "crops": "c0ffee",
        "meter": "powercap (counter)",
        "protocol": str(MEASUREMENT_PROTOCOL),
        "teacher:a": "aaaa",
        "teacher:b": "bbbb",
        "device.cpu": "abacus",
        "device.threads": "1",
    }


def test_a_spec_stands_on_its_own_teacher() -> None:
    assert ground().stands_on("teacher:b")["teacher"] == "bbbb"
    assert "teacher" not in ground().stands_on(None)


@pytest.mark.parametrize("name", ["energy_j_per_mpx", "encode_j_per_mpx", "decode_j_per_mpx"])
def test_an_energy_objective_without_a_meter_is_refused_before_the_study(
    tmp_path: Path, name: str
) -> None:
    """`check` refuses it in a file; this is the last door."""
    cfg = stub.study(tmp_path, "energy.meter=auto", f"objectives=[bd_rate_pct,{name}]")
    without = stub.study(tmp_path, "energy.meter=none")
    object.__setattr__(cfg, "energy", without.energy)
    with pytest.raises(MeterError, match=rf"{name} needs an energy meter\n?.*\n  fix: .*auto"):
        _meter(cfg, "cpu")


def test_no_meter_is_needed_where_nothing_asks_for_energy(tmp_path: Path) -> None:
    assert _meter(stub.study(tmp_path), "cpu") is None


def test_a_space_that_no_teacher_here_serves_is_refused_with_all_its_problems(
    tmp_path: Path,
) -> None:
    cfg = stub.study(tmp_path, TEACHERS)
    _require_usable(cfg, {"teacher:a": Coordinates(64, "scale")})
    with pytest.raises(ConfigError, match=r"space.distillation.entropy: .*latent.channels of 128"):
        _require_usable(cfg, {"teacher:a": Coordinates(128, "scale")})


# --- before a study begins -----------------------------------------------------------------------


def test_teachers_of_a_hybrid_whose_outputs_do_not_fit_together_are_refused(
    tmp_path: Path,
) -> None:
    """Each alone has room."""
    plan = architecture(n_levels=5)
    a, b = (
        f"file:{save_teacher(tmp_path / f'{seed}.safetensors', plan, seed=seed, rd_lambdas=FIVE)}"
        for seed in (0, 1)
    )
    both = f"{{latent: '{a}', output: '{b}'}}"
    size = size_gib(load_teacher(a), study_crops(load_images("builtin", "train"), 16, 64), 5)
    store = Store(tmp_path / "runs")

    def surveyed(teacher: str, gib: float) -> Ground:
        sets = f"space.distillation={{teacher: {teacher}, output: 0.5}}"
        small = ("anchor=jpeg", "data.crops=16", f"data.cache_gib={gib:.9f}")
        return survey(stub.study(tmp_path, sets, *small), store)

    for name in (a, b):
        surveyed(f"'{name}'", 1.5 * size)
    with pytest.raises(StoreError, match=r"outputs on 16 crops need .* GiB, more than"):
        surveyed(both, 1.5 * size)
    assert surveyed(both, 2.5 * size).teachers
    with pytest.raises(StoreError, match=r"data\.cache_gib"):
        surveyed(f"['{a}', none]", 0.5 * size)


def test_an_anchor_of_several_files_is_refused(tmp_path: Path) -> None:
    store = make_study(tmp_path / "runs")
    for i in range(2):
        path = store.trial("tiny", 0).student_of(i, 2)
        save_teacher(path, architecture(n_levels=1), rd_lambdas=FIVE[:1])
    cfg = stub.study(tmp_path, "anchor=trial:tiny/0")
    with pytest.raises(CodecError, match="trial:tiny/0 has a model for each of 2 rates") as refused:
        survey(cfg, store)
    assert refused.value.fix.endswith("student-0.safetensors")


def test_watching_workers_needs_no_torch() -> None:
    code = (
        "import sys, kdbench.search.launch\n"
        "print(sorted({'torch', 'compressai', 'matplotlib', 'bjontegaard'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"
