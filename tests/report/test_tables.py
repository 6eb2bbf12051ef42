import json
import subprocess
import sys
from statistics import stdev

import pytest

from residua.errors import RecordError
from residua.report.runs import read_study_runs
from residua.report.tables import average_runs_over_seeds, ci_half_width, find_first_learned_step
from tests.report.fake_records import RECIPE, write_run_record, write_study_records


def test_a_cell_holds_mean_and_sample_sd_over_seeds(tmp_path):
    pairs = [(0.01, 0.05), (0.02, 0.09), (0.06, 0.07)]
    [cell] = average_runs_over_seeds(
        read_study_runs(write_study_records(tmp_path, {"cifar-resnet20": pairs}))
    )
    assert cell.seeds == 3
    assert cell.train_error == pytest.approx(0.03)
    assert cell.train_error_sd == pytest.approx(stdev([0.01, 0.02, 0.06]))
    assert cell.test_error_sd == pytest.approx(stdev([0.05, 0.09, 0.07]))
    assert cell.parameters == 269_434
    assert cell.seconds == 12.5


def test_the_training_error_with_recalibrated_bn_is_used_when_every_seed_has_it(tmp_path):
    folder = write_study_records(tmp_path, {"cifar-plain20": [(0.5, 0.05)]})
    for seed, again in enumerate([0.01, 0.03]):
        more = {"train_error_reestimated": again, "train_loss": 2 * again}
        write_run_record(
            folder / "runs" / f"r{seed}", "cifar-resnet20", 0.4, 0.05, seed=seed, extra_result=more
        )
    write_run_record(
        folder / "runs" / "p1",
        "cifar-plain20",
        0.5,
        0.05,
        seed=1,
        extra_result={"train_error_reestimated": 0.2, "train_loss": 1.0},
    )
    plain, resnet = average_runs_over_seeds(read_study_runs(folder))
    assert (resnet.train_error, resnet.comparable_train_error, resnet.train_loss) == (
        0.4,
        0.02,
        pytest.approx(0.04),
    )
    assert resnet.gap == pytest.approx(0.03)
    assert (
        plain.train_error_reestimated,
        plain.comparable_train_error,
        plain.comparable_train_error_sd,
    ) == (None, 0.5, 0.0)


def test_confidence_intervals_use_students_t(tmp_path):
    """With two seeds t is 12.706 (one degree of freedom), with three 4.303."""
    assert ci_half_width(0.02, 2) == pytest.approx(12.7062 * 0.02 / 2**0.5, rel=1e-4)
    assert ci_half_width(0.02, 3) == pytest.approx(4.30265 * 0.02 / 3**0.5, rel=1e-4)
    assert ci_half_width(None, 1) is None
    [cell] = average_runs_over_seeds(
        read_study_runs(
            write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05), (0.03, 0.05)]})
        )
    )
    assert cell.json["train_error_ci"] == pytest.approx(ci_half_width(cell.train_error_sd, 2))
    assert cell.json["test_error_ci"] == 0


def test_a_run_starts_learning_at_its_first_line_below_eight_ninths_of_chance(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.0, 0.1)] * 3})
    for seed, errors in enumerate([[0.9, 0.79, 0.1], [0.79, 0.9, 0.1], [0.9, 0.81, 0.80]]):
        lines = [
            {"step": 20 * (i + 1), "train_error": error, "dev_error": 0.5}
            for i, error in enumerate(errors)
        ]
        metrics = tmp_path / "runs" / f"cifar-resnet20-seed{seed}" / "metrics.jsonl"
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = read_study_runs(tmp_path)
    assert [find_first_learned_step(run) for run in runs.finished] == [40, 20, None]
    [cell] = average_runs_over_seeds(runs)
    assert (cell.learned_seeds, cell.measured_every, cell.steps) == (2, 20, 200)
    assert cell.first_learned_step == pytest.approx((40 + 20 + 200) / 3)


def test_one_seed_has_no_sd(tmp_path):
    [cell] = average_runs_over_seeds(
        read_study_runs(write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]}))
    )
    assert (cell.train_error_sd, cell.dev_error_sd, cell.test_error_sd) == (None, None, None)


def test_an_unfinished_run_is_listed_and_not_averaged(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    write_run_record(tmp_path / "runs" / "more", "cifar-resnet20", 0.9, 0.9, seed=1, finished=False)
    runs = read_study_runs(tmp_path)
    [cell] = average_runs_over_seeds(runs)
    assert (cell.seeds, cell.test_error) == (1, 0.05)
    assert [(run.name, run.seed, run.step) for run in runs.unfinished] == [
        ("cifar-resnet20", 1, 200)
    ]


def test_an_unfinished_run_that_is_being_written_is_still_listed(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    write_run_record(tmp_path / "runs" / "more", "cifar-resnet20", 0.9, 0.9, seed=1, finished=False)
    with open(tmp_path / "runs" / "more" / "metrics.jsonl", "a") as file:
        file.write('{"step": 2')
    assert read_study_runs(tmp_path).unfinished[0].step == 200


def test_planned_runs_that_never_began_are_listed(tmp_path):
    write_study_records(tmp_path, {"cifar-resnet20": [(0.01, 0.05)]})
    plan = {
        "format": 1,
        "families": ["resnet", "plain,order=bare"],
        "depths": [20],
        "seeds": [0],
        "dataset": "digits",
    }
    plan["recipe"] = RECIPE
    (tmp_path / "study.json").write_text(json.dumps(plan))
    assert [run.name for run in read_study_runs(tmp_path).unfinished] == [
        "cifar-plain20,order=bare"
    ]


def test_families_are_in_the_order_of_the_papers_and_depths_ascend(tmp_path):
    names = [
        "cifar-preresnet20",
        "cifar-resnet20,shortcut=project",
        "cifar-resnet56",
        "cifar-resnet20",
        "cifar-plain110",
    ]
    table = average_runs_over_seeds(
        read_study_runs(write_study_records(tmp_path, {name: [(0.1, 0.1)] for name in names}))
    )
    assert [(cell.family, cell.depth) for cell in table] == [
        ("plain", 110),
        ("resnet", 20),
        ("resnet", 56),
        ("resnet,shortcut=project", 20),
        ("preresnet", 20),
    ]


def test_a_folder_of_a_single_run_is_read(tmp_path):
    write_run_record(tmp_path / "one", "cifar-resnet20", 0.01, 0.05)
    assert len(read_study_runs(tmp_path / "one").finished) == 1


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(RecordError, match="contains no run: give a study's folder"):
        read_study_runs(tmp_path)


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    write_run_record(tmp_path / "runs" / "a", "cifar-resnet20", 0.1, 0.1, finished=False)
    with pytest.raises(RecordError, match="contains no finished run yet: 1 run started; repeat"):
        read_study_runs(tmp_path)


def test_runs_on_different_data_are_not_averaged(tmp_path):
    write_run_record(tmp_path / "runs" / "a", "cifar-resnet20", 0.1, 0.1)
    write_run_record(tmp_path / "runs" / "b", "cifar-resnet20", 0.1, 0.1, seed=1, dataset="mnist")
    with pytest.raises(
        RecordError, match='cannot be compared: dataset is "digits" there, "mnist" here'
    ):
        read_study_runs(tmp_path)


def test_the_same_run_twice_is_refused_and_not_counted_as_two_seeds(tmp_path):
    write_run_record(tmp_path / "runs" / "a", "cifar-resnet20", 0.1, 0.1)
    write_run_record(tmp_path / "runs" / "b", "cifar-resnet20", 0.1, 0.1)
    with pytest.raises(RecordError, match="holds cifar-resnet20 with seed 0 twice"):
        read_study_runs(tmp_path)


def test_a_result_without_a_test_error_is_reported_as_damaged(tmp_path):
    write_run_record(tmp_path / "runs" / "a", "cifar-resnet20", 0.1, 0.1)
    head = tmp_path / "runs" / "a" / "run.json"
    head.write_text(head.read_text().replace("test_error", "tost_error"))
    with pytest.raises(
        RecordError,
        match=r"contains no finished run: in a, run\.json is damaged: it lacks 'test_error'",
    ):
        read_study_runs(tmp_path)


def test_reading_records_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, residua.report.study; "
        "print(*{'torch', 'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
