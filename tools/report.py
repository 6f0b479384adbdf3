"""``segrobust report`` as a script."""

import sys

from segrobust.cli import main

sys.argv.insert(1, "report")  # as it would have been typed, which a run keeps
sys.exit(main())
