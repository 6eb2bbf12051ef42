"""Do deeper networks train?  Plain, highway, residual and pre-activation nets (S1, S2, S5, S9).

In He et al. 2015, Fig. 1 and 6, training and test errors of plain nets rise from 20 to 56 layers,
and those of residual nets fall.  By default the study uses handwritten digits.  The paper's
setting, with a shorter schedule, needs a GPU or a long time on a CPU:

    python experiments/degradation.py --data cifar10 --recipe he2015 --steps 8000 \\
        --depths 20 32 44 56 --out runs/degradation
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
from residua.config.study import Arm, Study

STUDY = Study(
    question="Do deeper networks train?",
    arms=(
        Arm("plain"),
        Arm("highway"),
        Arm("resnet"),
        Arm("preresnet,block=basic,shortcut=pad", label="pre-activation"),
    ),
    depths=(20, 32, 44, 56, 110),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
