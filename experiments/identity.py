"""Does weight decay move units towards the identity, and at what cost (S6, S13, S14)?

A residual unit whose weights and biases decay to 0 becomes the identity, which costs a deeper net
nothing; a plain unit whose weights decay to 0 outputs nothing.  The nets are fully connected, so
that their layers have biases, and weights and biases, weights alone, or neither of them decay.
The distance of trained units from the identity, |F| / |x|, is measured by `residua signals` for
each run.

    python experiments/identity.py --out runs/identity
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
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
