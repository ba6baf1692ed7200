"""What we keep in Optuna's database beside parameters and values, by the name of the attribute."""

# of a study
SETTINGS = "settings"  # `config.settings`
GROUND = "ground"  # `ground.Ground`
BUDGET = "budget"  # `study.Budget`

RESTORING = "restoring"  # whether it is being made again from the folders

# of a trial
BY = "by"  # index, host and pid of the worker that runs it
SPEC_HASH = "spec_hash"
COSTS = "costs"  # what it was found to cost, as far as that is known
RUNGS = "rungs"  # what a trial showed on its way, costs among it, by the number of steps
DUPLICATE_OF = "duplicate_of"  # number of the trial whose values it repeats, or left to
PROBLEM = "problem"  # why it failed, where it ended by itself: it is not tried again
INTERRUPTED = "interrupted"  # it was stopped, and it was not its fault
