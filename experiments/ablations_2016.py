"""What may stand on the shortcut, and in which order does a unit compute?  He et al. 2016, Tables 1 and 2 (S8, S9).

The paper trains nets of 110 layers on CIFAR-10 for 64,000 steps (test error 6.61 % by the original unit; 12.35 % with the shortcut
halved, 8.70 % and 6.91 % with gates at their best, 12.22 % with 1x1 convolutions there, over 20 % with dropout; 8.17 % with BN
behind the addition, 7.84 % with the ReLU before it, 6.71 % with a ReLU-only and 6.37 % with a full pre-activation).  Handwritten
digits by default.  As in the paper, where a GPU can be had:

    python experiments/ablations_2016.py --data cifar10 --recipe he2016 --seeds 0 1 2 3 4 --out runs/ablations-2016
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipe import recipe
from residua.config.study import Arm, Study

STUDY = Study(
    question="What may stand on the shortcut, and in which order does a unit compute?",
    arms=(
        Arm("resnet", label="original"),
        Arm("plain"),
        Arm("resnet,join=constant", label="half-and-half"),
        Arm("resnet,join=exclusive-gate", label="exclusive-gate"),
        Arm("resnet,join=shortcut-gate", label="shortcut-gate"),
        Arm("resnet,shortcut=project-all", label="1x1-convolution-shortcut"),
        Arm("resnet,join=dropout", label="dropout-shortcut"),
        Arm("resnet,order=bn-after-add", label="BN-after-addition"),
        Arm("resnet,order=relu-before-add", label="ReLU-before-addition"),
        Arm("resnet,order=relu-preact", label="ReLU-only pre-activation"),
        Arm("resnet,order=full-preact", label="full pre-activation"),
    ),
    depths=(110,),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
