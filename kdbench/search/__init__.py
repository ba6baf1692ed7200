"""Who asks for the next trial: Optuna above the hinge, no torch.

launch      `kdbench search`: several workers, watched
watch       looks after them, tells how it goes
crew        their processes
slurm       the programs of Slurm; slurm_crew (workers as tasks of an array), slurm_ground (what a
            node adds to a study)
status      `kdbench status`: who works, how far it is, how long it takes
worker      `kdbench worker`: one process that asks, trains and tells
task        one trial, from the sampler's suggestion to what it is told
study       one Optuna study, begun once and kept true to its settings
budget      when it ends
samplers    who suggests, and what each makes of trials without values; grid, qmc
replay      searches simulated on a table of finished trials, `recorded` from the folders
objectives  from a result to numbers to minimise, from costs to constraints
gate        whether a trial goes on: limits, prospects (costs that leave no hope), ladder
ground      what the machine adds to a study: teachers, anchor, meter, device
turn        one worker asks at a time, on all machines (postgres has the lock)
roots       whether a worker shares the study's root; upload, shelf and collect where it does not
patience    a database that goes away is waited for
asking      a target device that measures in this machine's place: asked, waited for
target      `kdbench worker --role measure`: that device's side
mailbox     what the two write to each other in the database; codec files travel as parcels
dead        trials that nobody runs any more
restore     a database made from the folders
vain        why a study ended with nothing

storage, attributes, axes, others, locks, interrupt and reporter are what these stand on.
"""
