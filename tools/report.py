"""``segrobust report`` as a script."""

import sys

from segrobust.cli import main

sys.exit(main(["report", *sys.argv[1:]]))
