"""Does it matter how a shortcut changes its shape?  He et al. 2015, section 4.1, Table 3 (S11).

Options A (zeros for new channels), B (projections where shapes change) and C (projections everywhere).  The paper, with 34 layers
on ImageNet: 25.03 %, 24.52 % and 24.19 % top-1 error, so that projections are not what residual nets live on.  Handwritten
digits by default; with CIFAR-10:

    python experiments/options_abc.py --data cifar10 --recipe he2015 --out runs/options-abc
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipe import recipe
from residua.config.study import Arm, Study

STUDY = Study(
    question="Does it matter how a shortcut changes its shape?",
    arms=tuple(Arm(f"resnet,shortcut={option}", label=f"option-{option}") for option in "ABC"),
    depths=(20, 56),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
