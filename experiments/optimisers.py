"""Does degradation depend on the optimiser?  Plain and residual nets by five optimisers (S12).

The optimisers are SGD, momentum, Nesterov's momentum, AdamW and RMSprop.  Each has one learning
rate that was not tuned, because the study compares depths, not optimisers.

    python experiments/optimisers.py --out runs/optimisers
"""

import sys
from itertools import product

from residua.cli.preset import run_study_script
from residua.config.recipes import recipe
from residua.config.study import Arm, Study

OPTIMISER_CHANGES = {
    "SGD": ("optimiser.momentum=0", "schedule.lr=0.2"),
    "momentum": ("optimiser.momentum=0.9",),
    "Nesterov": ("optimiser.nesterov=true",),
    "AdamW": ('optimiser={"kind": "AdamW"}', "schedule.lr=0.005"),
    "RMSprop": ('optimiser={"kind": "RmsProp"}', "schedule.lr=0.002"),
}

STUDY = Study(
    question="Do plain nets degrade by every optimiser?",
    arms=tuple(
        Arm(family, changes, label=f"{word} {optimiser}")
        for (family, word), (optimiser, changes) in product(
            {"plain": "plain", "resnet": "residual"}.items(), OPTIMISER_CHANGES.items()
        )
    ),
    depths=(20, 56),
    seeds=(0, 1, 2),
    recipe=recipe("small"),
)

if __name__ == "__main__":
    sys.exit(run_study_script(STUDY))
