"""Which shortcuts and which order of operations train?  He et al. 2016, Tables 1 and 2 (S8, S9).

The paper trains networks of 110 layers on CIFAR-10 for 64,000 steps.  Its test errors: 6.61 % for
the original unit; 12.35 % with half-and-half scaling; 8.70 % and 6.91 % with the best exclusive
and shortcut-only gates; 12.22 % with 1x1 convolutions as shortcuts; over 20 % with dropout on the
shortcut; 8.17 % with BN after the addition; 7.84 % with the ReLU before it; 6.71 % with a
ReLU-only and 6.37 % with a full pre-activation.  By default the study uses handwritten digits.
The paper's setting needs a GPU:

    python experiments/ablations_2016.py --data cifar10 --recipe he2016 --seeds 0 1 2 3 4 \\
        --out runs/ablations-2016
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
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
