"""Recipes for ImageNet, from random weights: that of the 2015 paper, and two that are common.

Each is for photographs of 224 pixels; docs/imagenet.md has them in a table, beside their sources'
figures.  Their sources train on several GPUs, each of which normalises its own images in BN.  Here
BN has the statistics of the whole batch, synchronised between processes, unless `parts` (the field
`bn_splits`) is the number of the source's GPUs: `--set parts=8`.
"""

from residua.config.augmentation import Augmentation
from residua.config.optimisers import Sgd
from residua.config.recipe import Recipe
from residua.config.schedules import OneCycle, StepDecay

# He et al. 2015, section 3.4: batches of 256, SGD with momentum 0.9 and weight decay 1e-4, a rate
# of 0.1 that is divided by 10 when the error plateaus, up to 60e4 iterations; shorter side in
# [256, 480], crops of 224 and their mirror images, colours changed as by Krizhevsky et al. 2012;
# tested by ten crops.  The paper does not say when the error plateaus.  The rate falls here every
# 150,000 steps, which are 30 epochs, as in fb.resnet.torch and in IMAGENET_90; the last 150,000
# steps are at 1e-4. Deviations: the mean of each channel, not of each pixel, is subtracted, and
# the standard deviation divided by; a part of the training images is held out as the dev split.
IMAGENET_HE2015 = Recipe(
    name="imagenet-he2015",
    batch_size=256,
    steps=600_000,
    optimiser=Sgd(0.9, 1e-4),
    schedule=StepDecay(lr=0.1, at=(0.25, 0.5, 0.75)),
    augment=Augmentation(pad=0, shorter_side=(256, 480), pca_colour=0.1),
    views="10",
)

# The sources of the next two recipes crop the photographs themselves, the shorter side of most of
# which is 375 or 500.  From a shorter side of 256, a box of 8 % is 83 pixels wide on average if
# the photograph is as wide as 4:3, and would be enlarged to 224; from 400 it is 131 pixels wide.
STORED_SIDE = 400

# What most projects mean by training on ImageNet: 90 epochs, the rate divided by 10 every 30,
# crops of 8 % to all of a photograph (Szegedy et al. 2015) and no change of colour, as in the
# ImageNet example of PyTorch and for the first weights of torchvision (IMAGENET1K_V1).
IMAGENET_90 = Recipe(
    name="imagenet-90",
    batch_size=256,
    epochs=90,
    optimiser=Sgd(0.9, 1e-4),
    schedule=StepDecay(lr=0.1, at=(1 / 3, 2 / 3)),
    augment=Augmentation(pad=0, area=0.08),
    stored_side=STORED_SIDE,
)

TORCHVISION_BATCH, TORCHVISION_EPOCHS = 1024, 600  # 8 GPUs with 128 images each
# torchvision averages every 32 steps, and adjusts its decay of 0.99998 to the batch and the
# epochs: the share of the new weights is 0.00002 * 1024 * 32 / 600.  This is the decay per step.
TORCHVISION_EMA = (1 - 0.00002 * TORCHVISION_BATCH * 32 / TORCHVISION_EPOCHS) ** (1 / 32)

# torchvision's recipe of 2021, for its weights IMAGENET1K_V2: --lr 0.5 --lr-scheduler
# cosineannealinglr --lr-warmup-epochs 5 --lr-warmup-method linear --auto-augment ta_wide --epochs
# 600 --random-erase 0.1 --weight-decay 0.00002 --norm-weight-decay 0.0 --label-smoothing 0.1
# --mixup-alpha 0.2 --cutmix-alpha 1.0 --train-crop-size 176 --model-ema --val-resize-size 232
# --ra-sampler --ra-reps 4, on 8 GPUs with 128 images each.  Deviations: the warm-up begins at 0,
# not at 1 % of the rate; mixup or CutMix, and its proportion, are drawn for each image, not for
# each batch; the biases are not decayed either; TrivialAugment as `Augmentation.trivial`; the
# average begins to forget early weights at once, not after the warm-up.
IMAGENET_TORCHVISION_2021 = Recipe(
    name="imagenet-torchvision2021",
    batch_size=TORCHVISION_BATCH,
    epochs=TORCHVISION_EPOCHS,
    optimiser=Sgd(0.9, 2e-5, decay="weights"),
    schedule=OneCycle(lr=0.5, rise=5 / TORCHVISION_EPOCHS),
    augment=Augmentation(
        pad=0,
        area=0.08,
        trivial=True,
        erasing=0.1,
        mixup=0.5,
        cutmix=0.5,
        mixup_alpha=0.2,
    ),
    smoothing=0.1,
    ema=TORCHVISION_EMA,
    repeats=4,
    train_size=176,
    test_resize=232,
    stored_side=STORED_SIDE,
)

IMAGENET_RECIPES = (IMAGENET_HE2015, IMAGENET_90, IMAGENET_TORCHVISION_2021)
IMAGENET_PURPOSES = {
    "imagenet-he2015": "He et al. 2015, for ImageNet: 120 epochs, scale and colour augmentation",
    "imagenet-90": "ImageNet in 90 epochs, as most projects train ResNets",
    "imagenet-torchvision2021": "ImageNet in 600 epochs: torchvision's recipe of 2021",
}
"""What each of `IMAGENET_RECIPES` is for."""
IMAGENET_NETWORKS = {
    "imagenet-he2015": "resnet50",
    "imagenet-90": "resnet50,stride=3x3",
    "imagenet-torchvision2021": "resnet50,stride=3x3",
}
"""The network whose error the recipe's source states."""
