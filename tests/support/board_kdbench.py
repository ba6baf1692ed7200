"""`kdbench` on a board that is not this machine: another CPU, and a fake INA3221 as its only meter.

BOARD_SYS    what stands for /sys/bus/i2c/drivers
BOARD_CPU    what its processor is called
BOARD_WARM_UP_S  warm-up of each measurement, for tests that are in a hurry
BOARD_LOADED     a file that gets the names of all modules that were loaded
"""

import os
import sys
from functools import partial
from pathlib import Path

from kdbench import device, energy
from kdbench.cli import main
from kdbench.energy import meter
from kdbench.energy.ina3221 import Ina3221Meter

COMMAND = (sys.executable, "-m", "tests.support.board_kdbench")


def board() -> int:
    """Runs one command."""
    vars(energy)["Ina3221Meter"] = partial(Ina3221Meter, Path(os.environ["BOARD_SYS"]))
    device._cpu_model = lambda: os.environ["BOARD_CPU"]
    meter.WARM_UP_S = float(os.environ.get("BOARD_WARM_UP_S", "2"))
    code = main()
    if loaded := os.environ.get("BOARD_LOADED"):
        Path(loaded).write_text("\n".join(sorted(sys.modules)))
    return code


if __name__ == "__main__":
    sys.exit(board())
