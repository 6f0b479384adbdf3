"""``segrobust benchmark`` as a script, so that torchrun and accelerate launch can start it."""

import sys

from segrobust.cli import main

sys.argv.insert(1, "benchmark")  # as it would have been typed, which a run keeps
sys.exit(main())
