"""What studies and teachers may be called: names of files that every system can hold."""

import re

_DEVICES = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)"  # no files on Windows
PLAIN = rf"(?!(?i:{_DEVICES}))[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,99}}(?<!\.)"
PLAIN_NAME = re.compile(PLAIN)
