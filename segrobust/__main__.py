"""``python -m segrobust``."""

import sys

from segrobust.cli import main

sys.exit(main())
