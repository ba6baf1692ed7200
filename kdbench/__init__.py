"""kdbench: find small image codecs by distillation, search and measurement.

Read in this order: records (what travels), trial (the hinge), codecs/hyperprior (the student),
distill (the loss), search/study (who asks for the next trial).
"""

__version__ = "0.1.0"
