"""Why does the 2015 design degrade again at 1,000 layers, and not the 2016 one (S9, S10)?

Handwritten digits of 8x8 pixels and the recipe `small` (242 steps of 64 images) for every net, so that two cores will do.
Beside the two designs stand controls, each of which takes one suspect away:

- the ReLU after the addition, which cuts negative sums off (He et al. 2016, section 3.1): `order=no-relu-after-add`, and
  `start=identity`, which keeps the ReLU but starts where it cuts nothing;
- an input of the weight layers that is not normalised: `order=relu-preact` has no such ReLU and no BN before its weights either;
- the rate at the beginning: a longer warm-up.  All are warmed up a little, for the rate of `small` rises from 0 over 97 steps;
- over-fitting: drop-path regularises and leaves the forward pass as it is.

Published 1,001- and 1,202-layer nets differ in block, width and size; here basic block stands against basic block, and
bottleneck against bottleneck.

    python experiments/thousand_layers.py --out runs/thousand-layers

A run of 1,202 layers takes one CPU core 4 to 5 minutes where that has nothing else to do, one of 110 layers about one (records in
experiments/thousand-layers).  Seeds go one after the other, and in each the deepest nets go first, so that a page of what is
finished, by `residua report`, soon has all of one seed.
"""

import sys

from residua.cli.preset import run_study_script
from residua.config.recipe import recipe
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
