"""What must not be torn by a signal: a step of a training is finished before one is heard."""

from collections.abc import Iterator
from contextlib import contextmanager


class _State:
    """Of this process: how deep it is in blocks, and whether a signal waits for their end."""

    depth = 0
    is_late = False


@contextmanager
def unbroken() -> Iterator[None]:
    """A signal that comes inside is answered at the end of the block.

    Only where whoever handles signals asks `put_off`, as the workers of a search do; elsewhere
    Python interrupts the block as always.

    Raises:
        KeyboardInterrupt: At the end of the block, if a signal came.
    """
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        is_late, _State.is_late = _State.is_late, False
    if is_late:
        raise KeyboardInterrupt


def put_off() -> bool:
    """Of a handler of signals: whether the answer has to wait; it comes then by itself."""
    _State.is_late = _State.depth > 0
    return _State.is_late
