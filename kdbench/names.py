"""What studies and teachers may be called: names of files that every system can hold."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

_DEVICES = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)"  # no files on Windows
PLAIN = rf"(?!(?i:{_DEVICES}))[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,99}}(?<!\.)"
PLAIN_NAME = re.compile(PLAIN)


def nearest_first(name: str, known: Sequence[str]) -> list[str]:
    """`known`, the most alike first."""
    return get_close_matches(name, sorted(known), n=max(len(known), 1), cutoff=0.0)
