"""`python -m kdbench` is `kdbench`."""

import sys

from kdbench.cli import main

sys.exit(main())
