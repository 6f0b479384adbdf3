"""``segrobust train`` as a script, so that torchrun and accelerate launch can start it."""

import sys

from segrobust.cli import main

sys.argv.insert(1, "train")
sys.exit(main())
