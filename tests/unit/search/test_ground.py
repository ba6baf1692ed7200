"""What the machine adds to a study, and what a study cannot begin without."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.errors import ConfigError, MeterError
from kdbench.records import Coordinates
from kdbench.search.ground import Ground, _meter, _require_usable
from tests.support import search as stub

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


def test_watching_workers_needs_no_torch() -> None:
    code = (
        "import sys, kdbench.search.launch\n"
        "print(sorted({'torch', 'compressai', 'matplotlib', 'bjontegaard'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"
