"""Searches that cannot be, those that find nothing, and replays of what is not there."""

from tests.e2e.rows.recipes import FIX, overridden
from tests.e2e.rows.row import Row

ROWS = {
    "a sampler that nobody knows": overridden(
        "sampler.name=nsga",
        'sampler.name: got "nsga"; must be one of: nsga3, nsga2, random, grid, gp, tpe, qmc, '
        "listed",
    ),
    "a grid of any number": Row(
        command="search --study quick --set sampler.name=grid --set "
        "'space.training.learning_rate={low: 1.0e-4, high: 1.0e-2, log: true}'",
        answer="--set: space.training.learning_rate: is any number of a range, and sampler.name: "
        "grid tries listed values; write some, [0.0001, 0.001, 0.01], or take qmc\n" + FIX,
    ),
    "a study whose every candidate is above a limit": Row(
        command="search --study quick --set constraints.params_max=20000",
        answer="study 'quick' ended without one complete trial: 2 of 2 broke a constraint; of the "
        "nearest, trial 0, params is 87,571, 338 % above params_max (20,000)\n"
        "  fix: constraints.params_max=87580 would let it in; or give the space smaller students, "
        "under another name (`--set name=NAME`); `kdbench show --study quick --all` tells why\n",
    ),
}
