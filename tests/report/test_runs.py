import json

import pytest

from residua.config.recipes import recipe
from residua.config.serialize import to_json
from residua.config.study import Arm, Study
from residua.errors import RecordError
from residua.report.runs import read_study_runs
from residua.report.study import make_study_results, read_study_summary
from residua.report.tables import average_runs_over_seeds
from tests.report.fake_records import (
    ENVIRONMENT,
    RECIPE,
    write_page,
    write_run_record,
    write_study_records,
)

STUDY = Study(
    question="Is it the rate?",
    arms=(Arm("resnet", label="original"), Arm("resnet", ("schedule.lr=0.5",), label="fast")),
    depths=(20, 56),
    recipe=recipe("small"),
)


def write_two_arm_study(folder):
    """A study of two arms that differ in their recipe, all but one run finished."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(STUDY.json))
    for name, place in STUDY.points_by_run_name().items():
        error = 0.1 if place.arm.title == "fast" else 0.02
        network = place.arm.network_at_depth(place.depth).name
        arm_recipe = to_json(place.arm.apply_changes(STUDY.recipe))
        if (place.arm.title, place.depth) != ("fast", 56):
            write_run_record(
                folder / "runs" / name,
                network,
                error,
                2 * error,
                seed=place.seed,
                recipe=arm_recipe,
            )
    return folder


def change_run_fields(record, **changes):
    head = json.loads((record / "run.json").read_text())
    head["run"] |= changes
    (record / "run.json").write_text(json.dumps(head))


def test_runs_are_matched_to_arms_by_network_and_recipe(tmp_path):
    runs = read_study_runs(write_two_arm_study(tmp_path / "s"))
    assert [(cell.arm, cell.depth, cell.test_error) for cell in average_runs_over_seeds(runs)] == [
        ("original", 20, 0.04),
        ("original", 56, 0.04),
        ("fast", 20, 0.2),
    ]
    assert [(run.arm, run.name, run.seed, run.step) for run in runs.unfinished] == [
        ("fast", "cifar-resnet56", 0, None)
    ]


def test_an_incomplete_study_has_a_page_of_its_finished_cells(tmp_path):
    html = write_page(write_two_arm_study(tmp_path / "s")).read_text()
    assert "<h1>Is it the rate?</h1>" in html
    assert "original: resnet; fast: resnet, schedule.lr=0.5." in html
    assert "cifar-resnet56, seed 0 (fast): nothing measured yet" in html


def test_a_run_that_differs_in_more_than_its_arm_is_refused_with_the_difference(tmp_path):
    folder = write_two_arm_study(tmp_path / "s")
    change_run_fields(
        folder / "runs" / "cifar-resnet20-seed0",
        recipe=to_json(recipe("small")) | {"batch_size": 32},
    )
    with pytest.raises(
        RecordError,
        match="cannot be compared: recipe.batch_size is 64 there, 32 here, "
        "in cifar-resnet20-seed0;",
    ):
        read_study_runs(folder)


@pytest.mark.parametrize(
    ("part", "ours", "sentence"),
    [
        ("precision", "bf16", 'precision is "fp32" there, "bf16" here, in b'),
        ("images", "b", 'images is "a" there, "b" here, in b'),
    ],
)
def test_runs_of_another_precision_or_other_images_are_refused(tmp_path, part, ours, sentence):
    for folder, own in (("a", {"images": "a"}), ("b", {"images": "a", part: ours})):
        write_run_record(tmp_path / "runs" / folder, "cifar-resnet20", 0.1, 0.1, seed=ord(folder))
        head = tmp_path / "runs" / folder / "run.json"
        head.write_text(
            json.dumps(json.loads(head.read_text()) | {"environment": ENVIRONMENT | own})
        )
    with pytest.raises(RecordError, match=sentence):
        read_study_runs(tmp_path)


@pytest.mark.parametrize("cut", [0, 40, -30])
def test_a_half_written_record_is_reported_and_skipped(tmp_path, cut):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    write_run_record(tmp_path / "runs" / "cut", "cifar-resnet20", 0.9, 0.9, seed=1)
    head = tmp_path / "runs" / "cut" / "run.json"
    head.write_text(head.read_text()[:cut])
    [cell] = average_runs_over_seeds(read_study_runs(tmp_path))
    assert (cell.seeds, cell.test_error) == (1, 0.05)
    [damaged] = make_study_results(read_study_summary(tmp_path))["damaged"]
    assert damaged["folder"] == "cut"
    assert damaged["why"].startswith("run.json is damaged: ")
    html = write_page(tmp_path).read_text()
    assert "Not finished, and in no number above" in html
    assert "cut: skipped, because its run.json is damaged: " in html


def test_a_record_with_a_non_numeric_result_or_a_truncated_line_is_skipped(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05), (0.9, 0.9), (0.8, 0.8)]})
    head, metrics = (
        tmp_path / "runs" / f"cifar-resnet20-seed{i}" / name
        for i, name in ((1, "run.json"), (2, "metrics.jsonl"))
    )
    head.write_text(head.read_text().replace('"test_error": 0.9', '"test_error": "good"'))
    metrics.write_text(metrics.read_text()[:-9])
    runs = read_study_runs(tmp_path)
    assert [run.seed for run in runs.finished] == [0]
    assert [run.why.split(":")[0] for run in runs.damaged] == [
        "run.json is damaged",
        "metrics.jsonl is damaged in line 3",
    ]


def test_a_record_of_another_format_is_refused(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05), (0.01, 0.05)]})
    head = tmp_path / "runs" / "cifar-resnet20-seed1" / "run.json"
    head.write_text(head.read_text().replace('"format": 1', '"format": 0', 1))
    with pytest.raises(
        RecordError,
        match=r"cifar-resnet20-seed1/run\.json has format 0, but this version of residua "
        r"reads format 1",
    ):
        read_study_runs(tmp_path)


def test_a_study_of_another_format_is_refused(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text('{"format": 2, "arms": []}')
    with pytest.raises(
        RecordError, match=r"study\.json has format 2, but this version of residua reads format 1"
    ):
        read_study_runs(tmp_path)


@pytest.mark.parametrize("line", ["[]", '{"loss": 1}', '{"step": "ten"}', "null"])
def test_a_metrics_line_without_measurements_is_reported_as_damaged(tmp_path, line):
    write_study_records(
        tmp_path, {"cifar-resnet20": [(0.01, 0.05)], "cifar-resnet56": [(0.01, 0.05)]}
    )
    with open(tmp_path / "runs/cifar-resnet56-seed0/metrics.jsonl", "a") as file:
        file.write(line + "\n")
    [damaged] = read_study_runs(tmp_path).damaged
    assert "is not a row of metrics, because it has no step" in damaged.why


def test_a_damaged_study_is_reported(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text('{"format": 1, "arms"')
    with pytest.raises(RecordError, match=r"study\.json is damaged: "):
        read_study_runs(tmp_path)


def test_a_study_of_an_earlier_version_is_read_with_its_recipe_in_the_old_form(tmp_path):
    old = {
        "format": 1,
        "dataset": "digits",
        "families": ["resnet"],
        "depths": [20],
        "seeds": [0],
        "recipe": RECIPE,
    }
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text(json.dumps(old))
    assert [cell.arm for cell in average_runs_over_seeds(read_study_runs(tmp_path))] == ["resnet"]
