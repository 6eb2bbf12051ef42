import json

import pytest

from residua.errors import RecordError
from residua.report.page import results, write
from residua.report.runs import read
from residua.report.tables import cells
from residua.spec.recipe import recipe
from residua.spec.study import Arm, Study
from residua.spec.text import to_json
from tests.report.records import ENVIRONMENT, RECIPE, write_run, write_study

STUDY = Study(
    question="Is it the rate?",
    arms=(Arm("resnet", label="original"), Arm("resnet", ("schedule.lr=0.5",), label="fast")),
    depths=(20, 56),
    recipe=recipe("small"),
)


def write_arms(folder):
    """A study of two arms that differ in their recipe, all but one run finished."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(STUDY.json))
    for name, place in STUDY.places().items():
        error = 0.1 if place.arm.title == "fast" else 0.02
        network, own = place.arm.network(place.depth).name, to_json(place.arm.recipe(STUDY.recipe))
        if (place.arm.title, place.depth) != ("fast", 56):
            write_run(folder / "runs" / name, network, error, 2 * error, seed=place.seed, recipe=own)
    return folder


def change(record, **changes):
    head = json.loads((record / "run.json").read_text())
    head["run"] |= changes
    (record / "run.json").write_text(json.dumps(head))


def test_runs_belong_to_the_arm_whose_network_and_recipe_they_have(tmp_path):
    runs = read(write_arms(tmp_path / "s"))
    assert [(cell.arm, cell.depth, cell.test_error) for cell in cells(runs)] == [
        ("original", 20, 0.04), ("original", 56, 0.04), ("fast", 20, 0.2),
    ]  # fmt: skip
    assert [(run.arm, run.name, run.seed, run.step) for run in runs.unfinished] == [("fast", "cifar-resnet56", 0, None)]


def test_a_study_with_cells_missing_has_a_page_of_what_is_there(tmp_path):
    html = write(write_arms(tmp_path / "s")).read_text()
    assert "<h1>Is it the rate?</h1>" in html
    assert "original: resnet; fast: resnet, schedule.lr=0.5." in html
    assert "cifar-resnet56, seed 0 (fast): nothing measured yet" in html


def test_a_run_that_differs_in_more_than_its_arm_is_refused_with_the_difference(tmp_path):
    folder = write_arms(tmp_path / "s")
    change(folder / "runs" / "cifar-resnet20-seed0", recipe=to_json(recipe("small")) | {"batch_size": 32})
    with pytest.raises(RecordError, match="cannot be compared: recipe.batch_size is 64 there, 32 here, in cifar-resnet20-seed0;"):
        read(folder)


@pytest.mark.parametrize(
    ("part", "ours", "sentence"),
    [("precision", "bf16", 'precision is "fp32" there, "bf16" here, in b'), ("images", "b", 'images is "a" there, "b" here, in b')],
)
def test_runs_of_another_precision_or_other_images_are_refused(tmp_path, part, ours, sentence):
    for folder, own in (("a", {"images": "a"}), ("b", {"images": "a", part: ours})):
        write_run(tmp_path / "runs" / folder, "cifar-resnet20", 0.1, 0.1, seed=ord(folder))
        head = tmp_path / "runs" / folder / "run.json"
        head.write_text(json.dumps(json.loads(head.read_text()) | {"environment": ENVIRONMENT | own}))
    with pytest.raises(RecordError, match=sentence):
        read(tmp_path)


@pytest.mark.parametrize("cut", [0, 40, -30])
def test_a_half_written_record_is_named_and_skipped_never_averaged(tmp_path, cut):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    write_run(tmp_path / "runs" / "cut", "cifar-resnet20", 0.9, 0.9, seed=1)
    head = tmp_path / "runs" / "cut" / "run.json"
    head.write_text(head.read_text()[:cut])
    [cell] = cells(read(tmp_path))
    assert (cell.seeds, cell.test_error) == (1, 0.05)
    [damaged] = results(tmp_path)["damaged"]
    assert damaged["folder"] == "cut"
    assert damaged["why"].startswith("run.json is damaged: ")
    html = write(tmp_path).read_text()
    assert "Not finished, and in no number above" in html
    assert "cut: skipped, for its run.json is damaged: " in html


def test_a_record_with_a_result_that_is_no_number_or_a_cut_line_is_skipped(tmp_path):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05), (0.9, 0.9), (0.8, 0.8)]})
    head, metrics = (tmp_path / "runs" / f"cifar-resnet20-seed{i}" / name for i, name in ((1, "run.json"), (2, "metrics.jsonl")))
    head.write_text(head.read_text().replace('"test_error": 0.9', '"test_error": "good"'))
    metrics.write_text(metrics.read_text()[:-9])
    runs = read(tmp_path)
    assert [run.seed for run in runs.finished] == [0]
    assert [run.why.split(":")[0] for run in runs.damaged] == ["run.json is damaged", "metrics.jsonl is damaged"]


def test_a_record_of_another_format_is_refused(tmp_path):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05), (0.01, 0.05)]})
    head = tmp_path / "runs" / "cifar-resnet20-seed1" / "run.json"
    head.write_text(head.read_text().replace('"format": 1', '"format": 0', 1))
    with pytest.raises(RecordError, match=r"cifar-resnet20-seed1/run\.json has format 0; this version reads format 1"):
        read(tmp_path)


def test_a_study_of_another_format_is_named(tmp_path):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text('{"format": 2, "arms": []}')
    with pytest.raises(RecordError, match=r"study\.json has format 2; this version reads format 1"):
        read(tmp_path)


@pytest.mark.parametrize("line", ["[]", '{"loss": 1}', '{"step": "ten"}', "null"])
def test_a_line_that_measures_nothing_is_damage(tmp_path, line):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05)], "cifar-resnet56": [(0.01, 0.05)]})
    with open(tmp_path / "runs/cifar-resnet56-seed0/metrics.jsonl", "a") as file:
        file.write(line + "\n")
    [damaged] = read(tmp_path).damaged
    assert "is no measurement, which has a step" in damaged.why


def test_a_damaged_study_is_named(tmp_path):
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text('{"format": 1, "arms"')
    with pytest.raises(RecordError, match=r"study\.json is damaged: "):
        read(tmp_path)


def test_a_study_of_an_earlier_version_is_read_with_its_recipe_in_the_old_form(tmp_path):
    old = {"format": 1, "dataset": "digits", "families": ["resnet"], "depths": [20], "seeds": [0], "recipe": RECIPE}
    write_study(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    (tmp_path / "study.json").write_text(json.dumps(old))
    assert [cell.arm for cell in cells(read(tmp_path))] == ["resnet"]
