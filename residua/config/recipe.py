"""What a training recipe is: optimiser, learning-rate schedule, augmentation and duration."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from residua.config.augmentation import Augmentation
from residua.config.checks import check_range, require_number
from residua.config.image_views import ImageViews, parse_views
from residua.config.optimisers import Optimiser, Sgd
from residua.config.registry import registered_kinds, stored_kind_of
from residua.config.schedules import Schedule, StepDecay, Warmup
from residua.config.serialize import apply_override, to_json
from residua.config.training_phases import MAX_STEPS as MAX_STEPS
from residua.config.training_phases import TrainingPhases, check_step_limit
from residua.errors import UsageError, unknown_name_error

BatchNormMode = Literal["train", "frozen", "reestimated"]
"""What BN does in training; see `Recipe`."""

BN_SPLITS_METADATA = {"added_later": True, "stored_as": "parts", "also_set_as": "accumulate"}
MAX_EPOCHS = 10**6  # our choice
MIN_PHOTO_SIDE, MAX_PHOTO_SIDE = (
    8,
    2048,
)  # pixels, of train_size, test_resize and stored_side; our choice
MAX_BODY_LR = 1000  # beyond any use, but no product of it overflows; our choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(TrainingPhases):
    """Everything that training needs besides the network, the data and the seed.

    name        the name by which `recipe` finds it
    batch_size  images per step, summed over all processes
    steps       duration in steps; exactly one of `steps` and `epochs` is above 0
    epochs      duration in passes over the training images
    optimiser   update rule: how gradients change the weights
    schedule    the learning rate over the run
    warmup      optional lower learning rate in the first steps, for deep networks only
    augment     random changes of the images
    bn_splits   number of equal parts into which a batch is split for BN.  Each part is normalised
                by its own statistics, whatever the number of processes.  2 splits a batch of 128
                into 64 and 64, as on the two GPUs of He et al. 2015.  Gradients and running
                statistics are averaged over the parts: this is gradient accumulation
    smoothing   label smoothing: the share of each label that is spread evenly over all classes
    balance     whether all classes are drawn equally often, however many images they have; the
                expected gradient is that of a loss weighted by class, which is why there is none
    freeze      whether only the last layer is trained; BN then keeps its running statistics
    body_lr     factor on the learning rate of all layers except the last
    layer_decay  factor of at most 1 on the learning rate from each stage to the one before it, from
                the last layer down to the stem, beside `body_lr` (Howard & Ruder 2018, who divide
                by 2.6)
    probe       share of the run, at its start, in which only the last layer is trained, on fixed
                features (Kumar et al. 2022, LP-FT).  The schedule runs once in this phase and once
                in the rest of the run, in which all layers are trained; the last layer keeps its
                momentum between them, and that of the other layers begins with the second phase.
                BN keeps its running statistics in the first phase, as with `freeze`
    bn          "train": BN normalises by the batch and updates its running statistics.
                "frozen": BN normalises by the running statistics that the run began with, as in the
                transfer learning guide of Keras; its scales and shifts are trained.
                "reestimated": as "train", and after the last step the running statistics are
                computed anew, over up to 5,000 training images (Izmailov et al. 2018); the model
                folder `best` has them only if the last network is the best one
    ema         decay per step of an average of weights and running statistics, which is evaluated
                and saved instead of those of one step; 0 for no average.  After t steps the decay
                is at most (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage
    clip_norm   largest norm of all gradients together; longer ones are shortened to it, before
                weight decay (Pascanu et al. 2013); 0 for no limit
    sizes       sides of the training images as shares of their full size, one after another for
                equally many steps, e.g. (0.5, 0.75, 1) (after Tan & Le 2021); () for full size.
                The augmented images are shrunk; evaluations use the full size
    stem        share of the run, at its start, in which the stem is trained, at a rate that falls
                linearly from that of the schedule's peak to 0; 0 trains the stem as all layers
    dev         whether the dev images are held out; else they are trained on too, so that the run
                has no dev error and no folder `best`
    repeats     how often each image occurs in a batch, every time augmented differently (repeated
                augmentation, Hoffer et al. 2020).  An epoch has as many samples as without, so
                that each image is used in one of `repeats` epochs
    train_size  side in pixels of the square training images, for photographs; 0 for the network's
                input, which is the size of evaluation and prediction (Touvron et al. 2019, FixRes)
    test_resize  shorter side in pixels to which photographs are resized before the center crop of
                evaluation and prediction; 0 for about 8/7 of the network's input
    stored_side  shorter side in pixels at which whole training photographs are kept, from which
                boxes are cropped at random; 0 for that of evaluation
    views       the views of each test image whose predictions are averaged for the test error:
                none, mirror, 10 or six
    """

    name: str
    batch_size: int = 128
    steps: int = 0
    epochs: float = 0
    optimiser: Optimiser = field(default=Sgd())
    schedule: Schedule = field(default=StepDecay())
    warmup: Warmup | None = None
    augment: Augmentation = field(default=Augmentation())
    bn_splits: int = field(default=1, metadata=BN_SPLITS_METADATA)
    smoothing: float = field(default=0.0, metadata={"added_later": True})
    balance: bool = field(default=False, metadata={"added_later": True})
    freeze: bool = field(default=False, metadata={"added_later": True})
    body_lr: float = field(default=1.0, metadata={"added_later": True})
    layer_decay: float = field(default=1.0, metadata={"added_later": True})
    probe: float = field(default=0.0, metadata={"added_later": True})
    bn: BatchNormMode = field(default="train", metadata={"added_later": True})
    ema: float = field(default=0.0, metadata={"added_later": True})
    clip_norm: float = field(default=0.0, metadata={"added_later": True})
    sizes: tuple[float, ...] = field(default=(), metadata={"added_later": True})
    stem: float = field(default=0.0, metadata={"added_later": True})
    dev: bool = field(default=True, metadata={"added_later": True})
    repeats: int = field(default=1, metadata={"added_later": True})
    train_size: int = field(default=0, metadata={"added_later": True})
    test_resize: int = field(default=0, metadata={"added_later": True})
    stored_side: int = field(default=0, metadata={"added_later": True})
    views: ImageViews = field(default="none", metadata={"added_later": True})

    def __post_init__(self) -> None:
        if not self.epochs <= MAX_EPOCHS:
            raise UsageError(
                f"training for {self.epochs} epochs is too long: give at most {MAX_EPOCHS:,}"
            )
        check_step_limit(self.steps)
        if (self.steps > 0) == (self.epochs > 0) or self.steps < 0 or self.epochs < 0:
            raise UsageError(
                f"steps={self.steps} and epochs={self.epochs} are invalid: give one of them above "
                "0, and leave the other at 0"
            )
        if self.batch_size < 1:
            raise UsageError(f"a batch of {self.batch_size} images is invalid: give at least 1")
        check_range(require_number(self.smoothing, "smoothing"), "smoothing", 0, 1)
        body_lr = require_number(self.body_lr, "body_lr")
        check_range(body_lr, "body_lr", 0, MAX_BODY_LR, may_equal_high=True)
        self.make_fine_tuning_numbers_floats()
        self.check_fine_tuning_fields()
        self.check_sizes_and_repeats()
        if self.bn_splits < 1:
            raise UsageError(
                f"a batch cannot be split into {self.bn_splits} parts: "
                "give 1 for the whole batch, or a larger number"
            )

    def check_sizes_and_repeats(self) -> None:
        """Raise UsageError for sizes in pixels, or repeats, that no training can have."""
        for name in ("train_size", "test_resize", "stored_side"):
            side = getattr(self, name)
            if side and not MIN_PHOTO_SIDE <= side <= MAX_PHOTO_SIDE:
                raise UsageError(
                    f"{name}={side} is invalid: give {MIN_PHOTO_SIDE} to {MAX_PHOTO_SIDE} pixels, "
                    "or 0"
                )
        check_range(self.repeats, "repeats", 1)
        if self.batch_size % self.repeats:
            raise UsageError(
                f"a batch of {self.batch_size} images cannot hold each image {self.repeats} times: "
                f"give a batch size that is a multiple of repeats={self.repeats}"
            )

    def make_fine_tuning_numbers_floats(self) -> None:
        """Turn the numbers of the fields for fine-tuning into floats, as if read from JSON.

        Recipes that are equal then have equal JSON, and so do runs.  Raises UsageError for what is
        not a number.
        """
        for name in ("layer_decay", "probe", "ema", "clip_norm", "stem"):
            object.__setattr__(self, name, require_number(getattr(self, name), name))
        if not isinstance(self.sizes, tuple | list):
            raise UsageError(
                f"sizes={self.sizes!r} is invalid: give a tuple of shares, e.g. (0.5, 1)"
            )
        sizes = tuple(require_number(size, "sizes") for size in self.sizes)
        object.__setattr__(self, "sizes", sizes)

    def check_fine_tuning_fields(self) -> None:
        """Raise UsageError if a field for fine-tuning is out of range or contradicts another."""
        check_range(self.layer_decay, "layer_decay", 0, 1, may_equal_high=True)
        check_range(self.probe, "probe", 0, 1)
        check_range(self.ema, "ema", 0, 1)
        check_range(self.stem, "stem", 0, 1, may_equal_high=True)
        object.__setattr__(self, "views", parse_views(self.views))
        check_range(self.clip_norm, "clip_norm", 0)
        if self.bn not in get_args(BatchNormMode):
            raise unknown_name_error("mode of BN", str(self.bn), get_args(BatchNormMode))
        if not all(0 < size <= 1 for size in self.sizes):
            raise UsageError(
                f"sizes={list(self.sizes)} is invalid: give shares of the full side, "
                "each above 0 and at most 1"
            )
        if self.stem and (self.freeze or self.probe):
            field_name = "freeze" if self.freeze else "probe"
            raise UsageError(f"stem and {field_name} cannot be combined: leave one of them out")
        if self.freeze and (self.probe or self.bn != "train"):
            field_name = "probe" if self.probe else "bn"
            raise UsageError(
                f"freeze and {field_name} cannot be combined, because freeze trains only the last "
                f"layer in the whole run, and keeps BN as it is: leave {field_name} out"
            )

    def with_duration(self, steps: int = 0, epochs: float = 0) -> "Recipe":
        """Return this recipe with another duration; the schedule is stretched to fit it."""
        return replace(self, steps=steps, epochs=epochs)

    def with_optimiser(self, name: str) -> "Recipe":
        """Return this recipe with the optimiser whose kind is `name`, in any letter case.

        An optimiser of the recipe's own kind keeps its settings; one of another kind has its
        default settings.  The learning rate stays the same.  Raises UsageError if there is no such
        kind.
        """
        kinds = {kind.lower(): kind for kind in registered_kinds(Optimiser)}
        if name.lower() not in kinds:
            raise unknown_name_error("optimizer", name, kinds)
        kind = kinds[name.lower()]
        if kind == stored_kind_of(type(self.optimiser)):
            return self
        return apply_override(self, f'optimiser={{"kind": "{kind}"}}')

    def change_duration(self, steps: int | None, epochs: float | None) -> "Recipe":
        """Return this recipe with the duration that a user gives; None leaves it as it is.

        Raises UsageError if both steps and epochs are given, or if one is not positive.
        """
        if steps is not None and epochs is not None:
            raise UsageError("--steps and --epochs cannot be combined: give one of them")
        for length in (steps, epochs):
            if length is not None and length <= 0:
                raise UsageError(f"training length must be positive, got {length}")
        if steps is None and epochs is None:
            return self
        return self.with_duration(steps=steps or 0, epochs=epochs or 0)

    def drop_unneeded_warmup(self, depth: int) -> "Recipe":
        """Return this recipe, without its warm-up if a network of `depth` layers needs none."""
        is_unneeded = self.warmup is not None and depth < self.warmup.from_depth
        return replace(self, warmup=None) if is_unneeded else self


def list_recipe_changes(chosen: Recipe, changed: Recipe) -> list[str]:
    """List the fields in which `changed` differs from `chosen`: `["epochs 3", "schedule.lr 0.1"]`.

    Of an optimiser, for example, of another kind only the kind is named.  Steps and epochs that are
    0 do not set the duration, and are left out.
    """
    before, after = to_json(chosen), to_json(changed)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    changes = []
    for name, value in after.items():
        old = before.get(name)
        if value == old or (name in ("steps", "epochs") and not value):
            continue
        if value is True:
            changes.append(name)
        elif not isinstance(value, dict):
            changes.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
        elif not isinstance(old, dict) or old.get("kind") != value.get("kind"):
            changes.append(f"{name} {value.get('kind', 'added')}")
        else:
            changes += [f"{name}.{k} {v}" for k, v in value.items() if old.get(k) != v]
    return changes
