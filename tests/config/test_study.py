from dataclasses import replace

import pytest

from residua.config.recipes import recipe
from residua.config.schedules import Warmup
from residua.config.serialize import to_json
from residua.config.study import Arm, Study, parse_study
from residua.errors import RecordError, UsageError

STUDY = Study(
    question="Why?",
    arms=(
        Arm("resnet"),
        Arm(
            "resnet",
            ('warmup={"lr": 0.001, "steps": 9, "from_depth": 0}', "schedule.lr=0.5"),
            label="Warmed up!",
        ),
        Arm("preresnet,block=bottleneck,shortcut=project", label="bottleneck", depths=(164,)),
    ),
    depths=(8, 20),
    seeds=(0, 3),
    recipe=recipe("small"),
)


def test_runs_are_ordered_by_seed_and_then_deepest_first():
    assert list(STUDY.points_by_run_name()) == [
        f"{name}-seed{seed}"
        for seed in (0, 3)
        for name in (
            "cifar-preresnet164",
            "cifar-resnet20",
            "cifar-resnet20-warmed-up",
            "cifar-resnet8",
            "cifar-resnet8-warmed-up",
        )
    ]


def test_an_arm_changes_the_recipe_of_its_own_runs_only():
    runs = STUDY.make_runs()
    assert runs["cifar-resnet20-seed3"].recipe == recipe("small")
    changed = runs["cifar-resnet20-warmed-up-seed3"].recipe
    assert (changed.warmup, changed.schedule.lr) == (Warmup(0.001, 9, 0), 0.5)
    assert changed.batch_size == recipe("small").batch_size
    assert {run.network.input for run in runs.values()} == {(1, 8, 8)}


def test_a_study_round_trips_through_json():
    assert parse_study(STUDY.json) == STUDY


def test_a_study_of_an_earlier_version_compares_families():
    old = {
        "format": 1,
        "dataset": "digits",
        "families": ["plain", "resnet"],
        "depths": [20],
        "seeds": [0],
        "recipe": to_json(recipe("small")),
    }
    assert parse_study(old).arms == (Arm("plain"), Arm("resnet"))
    with pytest.raises(RecordError, match="not a valid study: .*recipe"):
        parse_study({"format": 1, "families": ["plain"], "depths": [20], "seeds": [0]})


@pytest.mark.parametrize(
    ("depths", "sentence"),
    [
        ((20, 57), "cifar-plain networks cannot have 57 layers: depth must be 6n+2, e.g. 56 or 62"),
        (
            (20, 57, 21),
            "the depths 21, 57 are impossible, the first because cifar-plain networks cannot "
            "have 21 layers: depth must be 6n+2, e.g. "
            "20 or 26",
        ),
    ],
)
def test_impossible_depths_are_listed_before_anything_starts(depths, sentence):
    with pytest.raises(UsageError) as caught:
        Study(
            arms=(Arm("plain"), Arm("resnet")), depths=depths, recipe=recipe("small")
        ).points_by_run_name()
    assert str(caught.value) == sentence


def test_a_study_with_nothing_to_compare_or_duplicate_arms_is_refused():
    with pytest.raises(
        UsageError, match="two arms of the study are called 'resnet': give them different labels"
    ):
        replace(STUDY, arms=(Arm("resnet"), Arm("resnet")))
    with pytest.raises(
        UsageError,
        match=(
            "the arms 'resnet' and 'also' are the same network at 20 layers: leave one of them out"
        ),
    ):
        replace(
            STUDY, arms=(Arm("resnet"), Arm("resnet,shortcut=A", label="also"))
        ).points_by_run_name()
    with pytest.raises(UsageError, match="a study needs at least one arm, one depth and one seed"):
        replace(STUDY, seeds=())
    with pytest.raises(
        UsageError, match=r"an arm that changes the recipe needs a label: set one for steps=3"
    ):
        Arm("plain", ("steps=3",))
