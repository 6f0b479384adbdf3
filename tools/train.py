"""``segrobust train`` as a script, so that torchrun and accelerate launch can start it."""

import sys

from segrobust.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
