"""Who asks for the next trial: Optuna above the hinge, no torch.

study       one Optuna study, opened and kept true to its settings
samplers    who suggests, and what each makes of trials without values
objectives  from a result to numbers to minimise, from costs to constraints
ground      what the machine adds to a study: teachers, anchor, meter, device
worker      one process: ask, train, tell
launch      several of them, watched
"""
