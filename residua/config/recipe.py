"""How a network is trained, as data: optimiser, learning rate, augmentation, duration.  And the papers' recipes."""

from dataclasses import dataclass, field, replace
from math import cos, inf, pi
from typing import ClassVar, Literal

from residua.config.dataset import Dataset
from residua.errors import UsageError, unknown_name_error


def check_range(value: float, name: str, low: float, high: float = inf) -> None:
    """UsageError unless low <= value < high."""
    if not low <= value < high:
        raise UsageError(
            f"{name}={value} is impossible: it must be at least {low}"
            + (f" and below {high}" if high < inf else "")
        )


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient, as in the papers."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    decay: Literal["all", "weights"] = (
        "all"  # "weights": neither BN parameters nor biases; our choice, the papers are silent
    )

    def __post_init__(self) -> None:
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)
        if self.nesterov and not self.momentum:
            raise UsageError("Nesterov's momentum needs a momentum above 0")


@dataclass(frozen=True, slots=True)
class AdamW:
    """Adam (Kingma & Ba 2015) with weight decay apart from the gradient (Loshchilov & Hutter 2019)."""

    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        check_range(self.beta1, "beta1", 0, 1)
        check_range(self.beta2, "beta2", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)


@dataclass(frozen=True, slots=True)
class RmsProp:
    """A gradient divided by the root of its running mean square (Tieleman & Hinton 2012)."""

    smoothing: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 1e-4
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        check_range(self.smoothing, "smoothing", 0, 1)
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)


@dataclass(frozen=True, slots=True)
class Muon:
    """Nesterov's momentum made orthogonal, for the weights of the units (Jordan et al. 2024).

    All else, of the stem, the head and BN, is trained by Nesterov's momentum at `share` times the rate, and without weight decay.
    """

    momentum: float = 0.9
    weight_decay: float = 0.03  # times the rate, apart from the gradient
    lr_scale: float = field(default=2.0, metadata={"stored_as": "share"})

    def __post_init__(self) -> None:
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)
        check_range(self.lr_scale, "share", 0)

    @property
    def decay(self) -> str:
        return "units"


Optimiser = Sgd | AdamW | RmsProp | Muon


@dataclass(frozen=True, slots=True)
class StepDecay:
    """A constant rate, multiplied by `factor` at each of `at`, which are shares of the run."""

    STORED_KIND: ClassVar[str] = "Drops"

    lr: float = 0.1
    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.factor, "factor", 0)

    def lr_at_progress(self, progress: float) -> float:
        """Rate when a share `done` in [0, 1) of the run is over."""
        return self.lr * self.factor ** sum(progress >= drop for drop in self.at)


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Up along a line for the first `rise` of the run, then down to zero along a cosine (after Smith & Topin 2017)."""

    lr: float = 0.02
    rise: float = 0.4

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.rise, "rise", 0, 1)

    def lr_at_progress(self, progress: float) -> float:
        if progress < self.rise:
            return self.lr * progress / self.rise
        return self.lr * (1 + cos(pi * (progress - self.rise) / (1 - self.rise))) / 2


@dataclass(frozen=True, slots=True)
class Warmup:
    """A rate of `lr` for the first steps of deep networks.

    He et al. 2015, section 4.2: 0.01 until the training error is below 80 %, which took about 400 iterations at 110 layers.
    Our choice: at most a tenth of the run.
    """

    lr: float = 0.01
    steps: int = 400
    from_depth: int = 110

    def __post_init__(self) -> None:
        check_range(self.lr, "lr", 0)
        check_range(self.steps, "steps", 0)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Pad by `pad` pixels and crop back at random; mirror with probability 1/2 (where the data set allows it); cut a square out.

    With an `area` below 1, a part of that share of the image or more, up to `stretch` times as wide as high or as high as wide,
    is brought to the input's size instead (Szegedy et al. 2015, section 6).  `colour` multiplies brightness, contrast and
    saturation by up to 1 +- that (Howard 2013).  `trivial` is TrivialAugment (Müller & Hutter 2021).  With a probability of `mixup`
    a sample is blended with another one, label and all (Zhang et al. 2018), with one of `cutmix` a box of it is another's (Yun et
    al. 2019); shares are even in [0, 1].
    """

    pad: int = 4
    flip: bool = True
    cut: int = field(default=0, metadata={"added_later": True})  # pixels of its side
    area: float = field(default=1.0, metadata={"added_later": True})
    stretch: float = field(default=4 / 3, metadata={"added_later": True})
    colour: float = field(default=0.0, metadata={"added_later": True})
    trivial: bool = field(default=False, metadata={"added_later": True})
    mixup: float = field(default=0.0, metadata={"added_later": True})
    cutmix: float = field(default=0.0, metadata={"added_later": True})

    def __post_init__(self) -> None:
        check_range(self.pad, "pad", 0)
        check_range(self.cut, "cut", 0)
        if not 0 < self.area <= 1:
            raise UsageError(f"area={self.area} is impossible: it must be above 0, and 1 at most")
        check_range(self.stretch, "stretch", 1)
        check_range(self.colour, "colour", 0, 1)
        check_range(self.mixup, "mixup", 0)
        check_range(self.cutmix, "cutmix", 0)
        if self.mixup + self.cutmix > 1:
            raise UsageError(
                f"mixup={self.mixup} and cutmix={self.cutmix} are probabilities of one choice: give 1 at most together"
            )

    def adapt_to_dataset(self, dataset: Dataset) -> "Augmentation":
        """Without mirroring where a mirrored image would change its class."""
        return replace(self, flip=self.flip and dataset.flip_keeps_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that training needs to know beside the network, the data and the seed.

    `parts` says over which images BN takes its statistics, whatever the number of processes: 1 is the whole batch; 2 at a batch
    of 128 is 64 and 64, as on the two GPUs of He et al. 2015.  Gradients are averaged over parts, and so are running statistics.
    """

    name: str
    batch_size: int = 128
    steps: int = 0  # exactly one of steps and epochs is given
    epochs: float = 0
    optimiser: Optimiser = Sgd()
    schedule: StepDecay | OneCycle = StepDecay()
    warmup: Warmup | None = None
    augment: Augmentation = Augmentation()
    bn_splits: int = field(
        default=1, metadata={"added_later": True, "stored_as": "parts"}
    )  # of a batch: BN's statistics are each part's own
    smoothing: float = field(
        default=0.0, metadata={"added_later": True}
    )  # of labels: that share of a label is all classes' alike
    balance: bool = field(
        default=False, metadata={"added_later": True}
    )  # show each class equally often, whatever it has
    freeze: bool = field(
        default=False, metadata={"added_later": True}
    )  # train the last layer alone; BN keeps its statistics
    body_lr: float = field(
        default=1.0, metadata={"added_later": True}
    )  # share of the rate that all below the last layer is trained at

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs > 0) or self.steps < 0 or self.epochs < 0:
            raise UsageError(
                f"a recipe lasts for steps or for epochs, one of them above 0: got steps={self.steps}, epochs={self.epochs}"
            )
        if self.batch_size < 1:
            raise UsageError(f"a batch of {self.batch_size} images is impossible: give at least 1")
        check_range(self.smoothing, "smoothing", 0, 1)
        check_range(self.body_lr, "body_lr", 0)
        if self.bn_splits < 1:
            raise UsageError(
                f"a batch in {self.bn_splits} parts is impossible: give at least 1, the whole batch"
            )

    def total_steps(self, num_images: int) -> int:
        """Steps of the whole run on that many training images."""
        return self.steps or max(1, round(self.epochs * num_images / self.batch_size))

    def with_duration(self, steps: int = 0, epochs: float = 0) -> "Recipe":
        """The same for another time; rates drop at the same shares of it."""
        return replace(self, steps=steps, epochs=epochs)

    def drop_unneeded_warmup(self, depth: int) -> "Recipe":
        """Without the warm-up, for networks that need none."""
        return (
            replace(self, warmup=None) if self.warmup and depth < self.warmup.from_depth else self
        )

    def lr_at_step(self, step: int, total_steps: int) -> float:
        """The learning rate of `step` (from 0) in a run of `steps`: a pure function."""
        rate = self.schedule.lr_at_progress(step / total_steps)
        if self.warmup and step < min(self.warmup.steps, total_steps // 10):
            return min(self.warmup.lr, rate)
        return rate


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # He et al. 2015, section 4.2.  Deviations: channel means where the paper subtracts a mean image (and a division by the
        # standard deviation); trained on the 45,000 images that the dev split leaves; parts=1 where two GPUs are parts=2.
        Recipe(name="he2015", steps=64_000, warmup=Warmup()),
        # He et al. 2016, appendix: the same, warmed up at every depth.
        Recipe(name="he2016", steps=64_000, warmup=Warmup(from_depth=0)),
        # Ours, for 32x32 images and little time; what was tried for it is in experiments/fast.
        Recipe(name="fast", epochs=36, optimiser=Muon(), schedule=OneCycle(lr=0.03, rise=0.2)),
        # Ours, for data sets of a few thousand small images.
        Recipe(
            name="small", epochs=12, batch_size=64, schedule=OneCycle(), augment=Augmentation(pad=1)
        ),
        # Ours, for a folder of photographs, from fresh weights and from those of another task.
        Recipe(
            name="photos",
            epochs=60,
            batch_size=32,
            optimiser=Sgd(0.9, 5e-4, nesterov=True, decay="weights"),
            schedule=OneCycle(lr=0.05, rise=0.2),
            augment=Augmentation(pad=0, area=0.35),
            smoothing=0.1,
        ),
        Recipe(
            name="tuning",
            epochs=15,
            batch_size=32,
            optimiser=Sgd(0.9, 1e-4, nesterov=True, decay="weights"),
            schedule=OneCycle(lr=0.02, rise=0.2),
            augment=Augmentation(pad=0, area=0.35),
            smoothing=0.1,
            body_lr=0.1,
        ),
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of that name; UsageError with the nearest one otherwise."""
    if name not in RECIPES:
        raise unknown_name_error("recipe", name, RECIPES)
    return RECIPES[name]
