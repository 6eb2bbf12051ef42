"""Does it matter how a shortcut changes the shape?  He et al. 2015, section 4.1, Table 3 (S11).

Option A pads new channels with zeros, B projects where the shape changes, and C projects
everywhere. On ImageNet with 34 layers the paper has 25.03 %, 24.52 % and 24.19 % top-1 error, so
projections are not essential.  By default the study uses handwritten digits; on CIFAR-10:

    python experiments/options_abc.py --data cifar10 --recipe he2015 --out runs/options-abc
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
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
