"""kdbench: find small image codecs by distillation, search and measurement.

Read in this order: records (what travels), trial (the hinge), codecs/hyperprior (the student),
distill (the loss), search/study (who asks for the next trial).
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdbench.codecs.learned import LearnedCodec

__version__ = "0.1.0"


def load(path: str | Path) -> "LearnedCodec":
    """The codec of a package that `kdbench export` wrote; see `kdbench.package.load`."""
    from kdbench.package import load as load_package  # torch is loaded by who needs it

    return load_package(path)
