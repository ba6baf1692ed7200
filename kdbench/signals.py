"""What must not be torn by a signal: a step of a training is finished before one is heard."""

from collections.abc import Iterator
from contextlib import contextmanager

_state = {"depth": 0, "late": False}


@contextmanager
def unbroken() -> Iterator[None]:
    """A signal that comes inside is answered at the end of the block.

    Only where whoever handles signals asks `put_off`, as the workers of a search do; elsewhere
    Python interrupts the block as always.

    Raises:
        KeyboardInterrupt: At the end of the block, if a signal came.
    """
    _state["depth"] += 1
    try:
        yield
    finally:
        _state["depth"] -= 1
        late, _state["late"] = _state["late"], False
    if late:
        raise KeyboardInterrupt


def put_off() -> bool:
    """Of a handler of signals: whether the answer has to wait; it comes then by itself."""
    _state["late"] = _state["depth"] > 0
    return _state["late"]
