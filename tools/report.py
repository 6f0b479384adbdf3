"""``segrobust report`` as a script."""

import sys

from segrobust.cli import main

sys.argv.insert(1, "report")
sys.exit(main())
