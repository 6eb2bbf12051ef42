"""Does weight decay help blocks towards the identity, and at what price (S6, S13, S14)?

A residual block whose weights and biases are decayed to 0 is the identity, which costs a deeper net nothing; a plain block so
decayed passes nothing on.  Fully connected nets, whose layers have biases, with decay on W and b, on W alone, and on neither.
How far their blocks end from the identity, |F| / |x|, is told by `residua signals` of each run.

    python experiments/identity.py --out runs/identity
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipe import recipe
from residua.config.study import Arm, Study

NO_DECAY, WEIGHTS_ONLY, STRONG_DECAY = (
    "optimiser.weight_decay=0",
    'optimiser.decay="weights"',
    "optimiser.weight_decay=0.01",
)

STUDY = Study(
    question="Does weight decay bring blocks to the identity?",
    arms=(
        Arm("fc-resnet", (NO_DECAY,), label="undecayed residual"),
        Arm("fc-resnet", (STRONG_DECAY, WEIGHTS_ONLY), label="W-decayed residual"),
        Arm("fc-resnet", (STRONG_DECAY,), label="W-and-b-decayed residual"),
        Arm("fc-plain", (NO_DECAY,), label="undecayed plain"),
        Arm("fc-plain", (STRONG_DECAY, WEIGHTS_ONLY), label="W-decayed plain"),
        Arm("fc-plain", (STRONG_DECAY,), label="W-and-b-decayed plain"),
    ),
    depths=(10, 22),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
