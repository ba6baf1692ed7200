"""Target devices that are unknown or silent, and meters that are programs and print no power."""

from tests.e2e.rows.recipes import FIX, overridden
from tests.e2e.rows.row import Row

JOINS = "`KDBENCH_STORAGE=URL kdbench worker --role measure --study quick --as board`"
SILENT = "target 'board' has not answered study 'quick' within 0.1 s (`target_timeout_s`)"
NEEDS_A_NAME = (
    "a worker that measures needs the name that the study calls it by, and has no index\n"
    "  fix: `kdbench worker --role measure --study NAME --as TARGET`, with the study's `target:`\n"
)
ROWS = {
    "a target of a name that is none": overridden(
        "target=../board", 'target: got "../board"; must be letters, digits, `-`, `_` and `.`'
    ),
    "a target without a meter": Row(
        command="search --study quick --set target=board",
        answer='studies/quick.yaml:12: energy.meter: got "none"; target needs a meter, there\n'
        + FIX,
    ),
    "a target that nobody is": Row(
        command="search --study quick --set target=board --set target_timeout_s=0.1 --set "
        "energy.meter=auto",
        answer=f"waiting for target 'board', 0.1 s at most; it joins by {JOINS}\n"
        f"{SILENT}: nobody of that name has joined\n  fix: start it where it measures, {JOINS}; "
        "the same search goes on then from what is finished\n",
    ),
    "a target without a name": Row(
        command="worker --role measure --study quick", answer=NEEDS_A_NAME
    ),
    "a target with an index": Row(
        command="worker --role measure --study quick --as board --index 1", answer=NEEDS_A_NAME
    ),
    "a trainer with a target's name": Row(
        command="worker --study tiny --as board",
        answer="--as and --device are of `--role measure`; who trains has the study's device\n"
        "  fix: add `--role measure`, or leave them out\n",
    ),
    "a program that is no meter": overridden(
        "energy.meter=command:volts meter",
        'energy.meter: got "command:volts meter"; must be command:watts PROGRAM or '
        "command:joules PROGRAM",
    ),
}
