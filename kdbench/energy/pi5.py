"""Power of a Raspberry Pi 5 from its power management chip, as the firmware tells it.

`vcgencmd pmic_read_adc` prints current and voltage of each supply that the chip makes:

        VDD_CORE_A current(7)=1.20000000A
        VDD_CORE_V volt(15)=0.72000000V
          EXT5V_V volt(24)=5.10000000V

Those with both are added up. What comes in at 5 V has a voltage and no current, so neither what the
chip loses nor what USB ports, fan and HDMI's 5 V draw is in the figure.
"""

import math
import re
import subprocess
from collections.abc import Sequence

from kdbench.energy.sampling import Sampling
from kdbench.errors import MeterError
from kdbench.records import Source

COMMAND = ("vcgencmd", "pmic_read_adc")
LINE = re.compile(r"\s*(?P<rail>\w+)_(?P<kind>[AV])\s+\w+\(\d+\)=(?P<value>[\d.]+)[AV]\s*")
ANSWER_S = 5.0


class Pi5Meter:
    """Energy of a Raspberry Pi 5's processor, memory and board supplies [J].

    Each reading starts a program, ten times a second: some milliseconds of one core, which are in
    the figure.

    Args:
        command: What prints the readings.

    Raises:
        MeterError: No such program, or not on a Raspberry Pi 5.
    """

    name = "pi5"
    source: Source = "sampled"
    tick_s = 0.1
    sees_idle = True

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        n_rails = len(self._rails())
        self.detail = (
            f"{n_rails} supplies of the power chip, {1 / self.tick_s:.0f} samples a second, "
            "without its own losses and what the 5 V input feeds directly (USB, fan)"
        )
        self._sampling = Sampling(lambda: math.fsum(self._rails().values()), self.tick_s)

    def start(self) -> None:
        self._sampling.start()

    def stop(self) -> float:
        return self._sampling.stop()

    def _rails(self) -> dict[str, float]:
        """Power of each supply now [W]."""
        amperes: dict[str, float] = {}
        volts: dict[str, float] = {}
        for match in map(LINE.fullmatch, self._printed().splitlines()):
            if match:
                values = amperes if match["kind"] == "A" else volts
                values[match["rail"]] = float(match["value"])
        if not amperes.keys() & volts.keys():
            raise MeterError(
                f"`{' '.join(self._command)}` tells no current with its voltage",
                fix="measure on a Raspberry Pi 5: earlier ones have no such chip",
            )
        return {rail: amperes[rail] * volts[rail] for rail in amperes.keys() & volts.keys()}

    def _printed(self) -> str:
        shown = " ".join(self._command)
        try:
            done = subprocess.run(
                self._command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=ANSWER_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise MeterError(
                f"no program {self._command[0]}: {str(error.strerror).lower()}",
                fix="measure on a Raspberry Pi 5, whose system brings it "
                "(`sudo apt install raspi-utils`)",
            ) from None
        except subprocess.TimeoutExpired:
            raise MeterError(
                f"`{shown}` has not answered for {ANSWER_S:g} s",
                fix="see that it answers in a terminal, or restart the board",
            ) from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise MeterError(
                f"`{shown}` ended with code {done.returncode}: {said[-1] if said else 'no word'}",
                fix="let this user talk to the firmware: `sudo usermod -aG video $USER`, then log "
                "in again",
            )
        return done.stdout
