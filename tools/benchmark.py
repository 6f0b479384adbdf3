"""``segrobust benchmark`` as a script, so that torchrun and accelerate launch can start it."""

import sys

from segrobust.cli import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
