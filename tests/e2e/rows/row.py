"""One row of the table of wrong inputs."""

from dataclasses import dataclass

from tests.support.desk import Prepare, nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One wrong input and its answer.

    Attributes:
        command: What is typed after `kdbench`, in the folder that `desk.make_desk` made.
        answer: All that is printed, word for word; HERE stands for the folder, and `[...]` for
            words that are a library's or the machine's.
        broken: What happens to the folder first.
        code: Exit code: 1 a problem, 2 wrong usage.
        stream: Where the answer is: `check` reports on stdout, errors go to stderr.
    """

    command: str
    answer: str
    broken: Prepare = nothing
    code: int = 1
    stream: str = "err"
