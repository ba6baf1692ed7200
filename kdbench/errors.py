"""Problems a user can solve: what was found, then what to do about it."""

import sys


def notice(text: str) -> None:
    """Tell on stderr what was found and put right: a user should know, and need do nothing."""
    print(f"note: {text}", file=sys.stderr, flush=True)


class KdbenchError(Exception):
    """A problem with its fix; `kdbench` prints both and exits with 1, without a traceback."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix


class ConfigError(KdbenchError):
    """A study, space or `--set` override that breaks a rule."""


class DataError(KdbenchError):
    """Photos that are missing, unreadable, too small or used twice."""


class CodecError(KdbenchError):
    """A codec, teacher or bitstream that is damaged or is not what it says."""


class CountError(KdbenchError):
    """A layer whose multiply-accumulates nobody counts."""


class QualityGapError(KdbenchError):
    """Rate-distortion curves that cannot be compared: too little common quality, or no curve."""


class MeterError(KdbenchError):
    """An energy meter that is missing or whose reading cannot be trusted."""


class DeviceError(KdbenchError):
    """A device that is not there, or is held by somebody else."""


class LauncherError(KdbenchError):
    """A scheduler that is missing, silent, or refuses what it is asked for."""


class StoreError(KdbenchError):
    """A study folder or database that cannot be written, read or does not match."""


class TargetError(StoreError):
    """A target device that is unknown, silent, or no longer what its study began with."""


class TrainingError(KdbenchError):
    """A training that diverged; carries the step in its message."""
