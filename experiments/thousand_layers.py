"""Why does the 2015 design degrade again at 1,000 layers, and the 2016 design not (S9, S10)?

All networks train on handwritten digits of 8x8 pixels by the recipe `small` (242 steps of 64
images), so that two cores are enough.  The control arms remove one suspected cause each:

- The ReLU after the addition clips negative sums (He et al. 2016, section 3.1).
  `order=no-relu-after-add` removes it; `start=identity` keeps it, but at first it clips nothing.
- The input of the weight layers is not normalised.  `order=relu-preact` has no ReLU after the
  addition, and no BN before its weights either.
- The learning rate is high at the beginning.  One arm has a longer warm-up; all are warmed up a
  little, because the rate of `small` rises from 0 over 97 steps.
- The networks overfit.  Drop-path regularises and leaves the forward pass unchanged.

The published networks of 1,001 and 1,202 layers differ in block, width and size; here basic blocks
are compared with basic blocks, and bottlenecks with bottlenecks.

    python experiments/thousand_layers.py --out runs/thousand-layers

A run of 1,202 layers takes 4 to 5 minutes on an otherwise idle CPU core, one of 110 layers about
one minute (records in experiments/thousand-layers).  Seeds are trained one after the other, and
for each seed the deepest networks first, so that `residua report` soon shows all networks of one
seed.
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
from residua.config.study import Arm, Study

BOTTLENECK_OPTIONS, BOTTLENECK_DEPTHS = "block=bottleneck,shortcut=project", (164, 1001)

STUDY = Study(
    question="Why do 1,000 layers fail in the 2015 design and not in the 2016 one?",
    arms=(
        Arm("resnet", label="original"),
        Arm("resnet,order=no-relu-after-add", label="no-ReLU-after-addition"),
        Arm("resnet,start=identity", label="zero-initialised"),
        Arm("resnet,order=full-preact", label="full pre-activation"),
        Arm("resnet,order=relu-preact", label="ReLU-only pre-activation"),
        Arm(
            "resnet",
            ('warmup={"lr": 0.001, "steps": 24, "from_depth": 0}',),
            label="warmed-up original",
        ),
        Arm("resnet,join=drop-path", label="drop-path original"),
        Arm(f"resnet,{BOTTLENECK_OPTIONS}", label="original bottleneck", depths=BOTTLENECK_DEPTHS),
        Arm(
            f"preresnet,{BOTTLENECK_OPTIONS}",
            label="full pre-activation bottleneck",
            depths=BOTTLENECK_DEPTHS,
        ),
    ),
    depths=(20, 110, 302, 602, 1202),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
