"""What we keep in Optuna's database beside parameters and values, by the name of the attribute."""

# of a study
SETTINGS = "settings"  # `config.settings`
GROUND = "ground"  # `ground.Ground`
BUDGET = "budget"  # `study.Budget`
FIXED = "fixed"  # `StoredStudy.fixed`, for machines without the study's folder
TOKEN = "root"  # what the study's own folder holds, see `roots`

RESTORING = "restoring"  # whether it is being made again from the folders

# of a trial
BY = "by"  # index, host, root and pid of the worker that runs it, and its task of a Slurm array
SPEC_HASH = "spec_hash"
COSTS = "costs"  # what it was found to cost, as far as that is known
RUNGS = "rungs"  # what a trial showed on its way, costs among it, by the number of steps
DUPLICATE_OF = "duplicate_of"  # number of the trial whose values it repeats, or left to
PROBLEM = "problem"  # why it failed, where it ended by itself: it is not tried again
INTERRUPTED = "interrupted"  # it was stopped, and it was not its fault

# of either
UPLOADED = "uploaded"  # files that are artifacts: name -> id, bytes, SHA-256; see `upload`
