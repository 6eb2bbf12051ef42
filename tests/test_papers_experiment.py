"""experiments/papers.py: the cells of the papers' tables, the queue, and its results."""

import io
import json
import lzma
import os
import re
import runpy
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from residua.errors import DataError, Interrupted
from residua.record import RunRecord

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))  # as when Python runs a script of that folder

import cifar_sheets  # noqa: E402
import papers  # noqa: E402
import papers_figure  # noqa: E402
import papers_page  # noqa: E402
import papers_pool  # noqa: E402
import papers_queue  # noqa: E402
from papers_carry import pack_unfinished, unpack_unfinished  # noqa: E402
from papers_cells import CELLS  # noqa: E402
from papers_jobs import JobOptions, choose_jobs, list_jobs  # noqa: E402
from papers_records import Place, list_finished, read_step_times, store_records  # noqa: E402
from papers_results import find_t_95, make_cells_json, measure_nets  # noqa: E402

from tests.measured import without_times  # noqa: E402

OTHER_COUNT_IN_PAPER = {"cifar-preresnet1001": "10.2 M"}  # ours has 10.33 M, as pytorchcv's
DIGITS = JobOptions(seeds=(0,), epochs=0.5, dataset="digits")


def make_digits_jobs(*names):
    return choose_jobs(list_jobs(DIGITS), names or ["cifar-resnet20-fast-*"])


@pytest.mark.parametrize("cell", [c for c in CELLS if c.paper_parameters], ids=lambda c: c.net)
def test_a_net_has_as_many_parameters_as_its_paper_prints(cell):
    number = cell.paper_parameters.split()[0]
    decimals = len(number.partition(".")[2])
    if cell.paper_parameters == OTHER_COUNT_IN_PAPER.get(cell.net):
        assert abs(cell.parameters / 1e6 - float(number)) < 0.2
    else:
        assert f"{cell.parameters / 1e6:.{decimals}f}" == number


def test_the_exact_counts_are_those_of_the_papers_tables():
    by_net = {cell.net_name: cell.parameters for cell in CELLS if cell.dataset == "cifar10"}
    exact = {
        "cifar-resnet20": 269_722,
        "cifar-resnet56": 853_018,
        "cifar-plain56": 853_018,
        "cifar-resnet110": 1_727_962,
        "cifar-resnet1202": 19_421_274,
        "cifar-preresnet164": 1_703_258,
        "cifar-preresnet1001": 10_327_706,
        "cifar-wrn28-10": 36_479_194,
        "vlad": None,
    }
    assert {net: by_net[net] for net in exact} == exact


def test_the_nets_have_the_layers_that_their_rows_name():
    for cell in CELLS:
        if named := re.search(r"([\d,]+) layers", cell.row):
            assert cell.layers == int(named[1].replace(",", ""))
    assert {cell.layers for cell in CELLS if cell.table == "2016, Table 1"} == {110}


def test_each_row_of_a_table_is_another_net_or_batch():
    keys = [(cell.table, cell.dataset, cell.make_network(), cell.batch_size) for cell in CELLS[:-1]]
    assert len(set(keys)) == len(keys)
    names = [(cell.table, cell.dataset, cell.row) for cell in CELLS]
    assert len(set(names)) == len(names)


def test_the_queue_fills_cells_in_order_of_worth():
    jobs = list_jobs(JobOptions())
    assert [job.rank for job in jobs] == sorted(job.rank for job in jobs)
    first = [(job.net, job.run.seed) for job in jobs if job.rank == 1]
    nets = [f"cifar-{kind}{depth}" for depth in (20, 32, 44, 56) for kind in ("resnet", "plain")]
    nets += ["cifar-resnet110", "cifar-preresnet110"]
    assert first == [(net, seed) for seed in (0, 1, 2) for net in nets]
    assert {job.recipe for job in jobs if job.rank <= 3} == {"fast"}
    thousand = {job.net for job in jobs if job.rank == 3 and job.layers > 1000}
    assert thousand == {
        "cifar-preresnet1001,order=original",
        "cifar-preresnet1001",
        "cifar-resnet1202",
        "cifar-preresnet1202",
    }
    assert {job.recipe for job in jobs if job.rank == 4} == {"he2015"}
    assert {job.total_steps for job in jobs if job.rank == 5} == {2000}
    assert len({job.name for job in jobs}) == len({job.run.id for job in jobs}) == len(jobs)
    assert not [job.name for job in jobs if set(job.name) & set(",= ")]


def test_every_cell_has_runs_with_both_recipes():
    trained = {(job.net, job.recipe.split(",")[0]) for job in list_jobs(JobOptions(seeds=(0,)))}
    for cell in CELLS:
        if cell.recipe and cell.dataset == "cifar10":
            assert {(cell.net_name, cell.recipe), (cell.net_name, "fast")} <= trained


def test_the_first_steps_have_the_rate_of_the_papers_first_half():
    [job] = choose_jobs(
        list_jobs(JobOptions(seeds=(0,))), ["cifar-resnet110-he2016-first-2000-steps-*"]
    )
    rates = {step: job.run.recipe.lr_at_step(step, 2000) for step in (0, 199, 200, 1999)}
    assert rates == {0: 0.01, 199: 0.01, 200: 0.1, 1999: 0.1}


def test_nets_whose_checkpoint_is_too_large_are_left_out_or_cut():
    small = list_jobs(JobOptions(seeds=(0,), max_carry_mib=40))
    assert max(job.checkpoint_mib for job in small) <= 40
    assert not [job for job in small if job.layers > 1000]
    cut = list_jobs(JobOptions(seeds=(0,), max_carry_mib=40, cut_epochs=2))
    deep = [job for job in cut if job.layers > 1000]
    assert {job.recipe for job in deep} == {"fast, 2 epochs"}
    assert {job.total_steps for job in deep} == {703}


def test_a_queue_that_is_stopped_goes_on_elsewhere_and_ends_the_same(tmp_path, monkeypatch):
    jobs = make_digits_jobs()
    whole = Place(tmp_path / "whole", tmp_path / "whole-out")
    papers_queue.train_jobs(jobs, whole, papers_queue.now() + 1e4)

    stopped = Place(tmp_path / "stopped", tmp_path / "stopped-out")
    ticks = count(papers_queue.now(), 1.0)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(papers_queue, "now", lambda: next(ticks))
        papers_queue.train_jobs(jobs, stopped, next(ticks) + 30, say=said.append)
    assert re.search(r"stopped at step [1-4] of 5; to be continued", " ".join(said))
    assert not stopped.records.exists()

    assert pack_unfinished(stopped, tmp_path / "carried") == []
    elsewhere = Place(tmp_path / "elsewhere", tmp_path / "elsewhere-out")
    assert unpack_unfinished(tmp_path / "carried", elsewhere) == [jobs[0].name]
    assert unpack_unfinished(tmp_path / "carried", elsewhere) == []
    papers_queue.train_jobs(jobs, elsewhere, papers_queue.now() + 1e4)

    [one], [other] = (read_outcomes(place, jobs) for place in (whole, elsewhere))
    assert one == other
    left = {path.name for path in elsewhere.folder_of(jobs[0]).iterdir()}
    assert left == {"run.json", "metrics.jsonl"}
    said.clear()
    papers_queue.train_jobs(jobs, elsewhere, papers_queue.now() + 1e4, say=said.append)
    assert said == ["1 of 1 runs are finished already, or failed"]


def test_runs_in_threads_end_as_runs_one_after_another(tmp_path):
    jobs = [replace_seed(make_digits_jobs()[0], seed) for seed in (0, 1)]
    ends = []
    for name, train_all in (
        ("apart", papers_pool.train_one_by_one),
        ("together", partial(papers_pool.train_in_threads, at_once=2)),
    ):
        place = Place(tmp_path / name, tmp_path / f"{name}-out")
        train = partial(
            papers_queue.train_job, place=place, deadline=papers_queue.now() + 1e4, say=str
        )
        outcomes = list(train_all(train, jobs))
        assert sorted(outcome for _, outcome in outcomes) == ["", ""]
        store_records(place)
        ends.append(read_outcomes(place, jobs))
    assert ends[0] == ends[1]
    assert ends[0][0] != ends[0][1]


def replace_seed(job, seed):
    return replace(job, run=replace(job.run, seed=seed))


def read_outcomes(place, jobs):
    """What the runs measured, without the times."""
    finished = list_finished(Place(place.records, place.records))
    return [
        (
            without_times(finished[job.run.id].read_result()),
            [dict(row) | {"seconds": 0} for row in finished[job.run.id].read_metrics()],
        )
        for job in jobs
    ]


def test_no_run_is_started_without_time_for_its_start(tmp_path):
    place, said = Place(tmp_path, tmp_path / "out"), []
    papers_queue.train_jobs(make_digits_jobs(), place, papers_queue.now() + 10, say=said.append)
    assert said == ["0 of 1 runs are finished already, or failed"]
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_ended_without_time_for_its_evaluation():
    [job] = make_digits_jobs()
    progress = papers_queue.TimedProgress(job, papers_queue.now() + 60, lambda: False)
    progress.total_steps, progress.step = 5, 4
    assert not progress.should_stop()
    progress.evaluation_seconds = 2.0
    assert progress.should_stop()
    progress.evaluation_seconds, progress.begun = 0.0, (3, progress.last_called - 0.2)
    assert progress.should_stop()  # 600 times 0.2 s
    progress.step, progress.begun = 3, None
    assert not progress.should_stop()
    progress.evaluation_seconds = 2.0
    assert not progress.should_stop()


def test_a_run_that_fails_is_recorded_and_not_tried_again(tmp_path, monkeypatch):
    jobs, said = make_digits_jobs("cifar-resnet20-fast-*", "cifar-plain20-fast-*"), []
    place = Place(tmp_path / "runs", tmp_path / "out")
    finish = papers_queue.train_run

    def diverge(run, folder, *rest, on_progress, **keywords):
        if "resnet" in run.network.name:
            on_progress(FakeProgress(), None)
            folder.mkdir(parents=True)
            raise papers_queue.TrainingError("the loss is not finite")
        return finish(run, folder, *rest, on_progress=on_progress, **keywords)

    monkeypatch.setattr(papers_queue, "train_run", diverge)
    for _ in range(2):
        papers_queue.train_jobs(jobs, place, papers_queue.now() + 1e4, say=said.append)
    assert sum("failed: the loss is not finite" in line for line in said) == 1
    assert said[-1] == "2 of 2 runs are finished already, or failed"
    failures = json.loads((place.records / "failures.json").read_text())
    assert failures == {jobs[0].name: "the loss is not finite"}


def test_lack_of_gpu_memory_is_no_failure(tmp_path, monkeypatch):
    [job], said, calls = make_digits_jobs(), [], []
    place = Place(tmp_path / "runs", tmp_path / "out")

    def run_out_of_memory(run, folder, *rest, on_progress, **keywords):
        calls.append(run)
        on_progress(FakeProgress(), None)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError as error:
            raise papers_queue.TrainingError("a step needs more memory") from error

    monkeypatch.setattr(papers_queue, "train_run", run_out_of_memory)
    for _ in range(2):
        papers_queue.train_jobs([job], place, papers_queue.now() + 1e4, say=said.append)
    assert len(calls) == 2
    assert said[-1].endswith("not trained: a step needs more memory")
    assert not list(tmp_path.rglob("fail*"))


def test_a_stop_signal_reaches_the_runs_in_other_processes(tmp_path):
    [job] = choose_jobs(list_jobs(replace(DIGITS, epochs=500)), ["cifar-resnet20-fast-*"])
    place = Place(tmp_path / "runs", tmp_path / "out")
    train = partial(papers_queue.train_job, place=place, deadline=papers_queue.now() + 1e4)

    def interrupt_this_process():
        while not (place.folder_of(job) / "metrics.jsonl").exists() and not ended.wait(0.1):
            time.sleep(0.1)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    ended, handler = threading.Event(), signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt_this_process)
    thread.start()
    try:
        with pytest.raises(Interrupted):
            list(papers_pool.train_in_processes(train, [job], 1))
    finally:
        ended.set()
        thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert list((place.folder_of(job) / "checkpoints").glob("*.safetensors"))
    assert not list(tmp_path.rglob("fail*"))


def test_no_run_begins_after_a_stop_signal(tmp_path):
    def train(job, stop_also):
        if job == "first":
            os.kill(os.getpid(), signal.SIGTERM)
            return ""
        return papers_queue.train_job(job, None, 0, stop_also=stop_also)

    outcomes = papers_pool.train_one_by_one(train, ["first", "second"])
    assert next(outcomes) == ("first", "")
    with pytest.raises(Interrupted):
        next(outcomes)


def make_unfinished(place, job, mib=1):
    """A run with a checkpoint of random bytes, which is not finished."""
    record = RunRecord(place.folder_of(job))
    record.claim_folder(job.run, {"precision": "bf16", "device": "H100", "images": "x"}, False)
    record.checkpoints_folder.mkdir(exist_ok=True)
    (record.checkpoints_folder / "1.safetensors").write_bytes(os.urandom(int(mib * 2**20)))


def test_what_is_taken_along_twice_are_the_runs_that_are_unfinished_now(tmp_path):
    place, taken = Place(tmp_path / "runs", tmp_path / "out"), tmp_path / "taken"
    names = [f"cifar-{kind}{depth}-fast-*" for kind in ("plain", "resnet") for depth in (32, 44)]
    jobs = choose_jobs(list_jobs(JobOptions(seeds=(0,))), names)
    finished_here, finished_elsewhere, failed, unfinished = jobs
    for job in jobs:
        make_unfinished(place, job, 16 if job is finished_here else 0.1)
    papers.copy_results(place, taken)
    assert {path.name for path in taken.iterdir()} == {"unfinished.tar.0", "unfinished.tar.1"}
    result = {"steps": 1, "seconds": 1.0, "test_error": 0.1, "train_error": 0.1}
    RunRecord(place.folder_of(finished_here)).write_result(result)
    elsewhere = Place(tmp_path / "elsewhere", place.records)
    write_fake_record(elsewhere, finished_elsewhere, 0.1)
    store_records(elsewhere)
    (place.folder_of(failed) / "failure.txt").write_text("the loss is not finite")
    store_records(place)
    for _ in range(2):
        papers.copy_results(place, taken)
        names = {path.name for path in taken.iterdir()}
        assert names == {"runs.jsonl", "failures.json", "unfinished.tar.0"}
    assert unpack_unfinished(taken, Place(tmp_path / "new", tmp_path)) == [unfinished.name]
    RunRecord(place.folder_of(unfinished)).write_result(result)
    papers.copy_results(place, taken)
    assert not list(taken.glob("unfinished*"))


class FakeProgress:
    total_steps, step, note = 5, 1, ""


def write_fake_record(place, job, test_error, seconds=100.0, rows=2):
    """A finished run in the folder of the records' runs, without training."""
    record = RunRecord(place.folder_of(job))
    record.claim_folder(job.run, {"precision": "bf16", "device": "H100", "images": "x"}, False)
    for number in range(1, rows + 1):
        step = job.total_steps * number // rows
        line = {"step": step, "epoch": 1.0, "lr": 0.1, "loss": 1.0, "train_error": 0.3 / number}
        line |= {"dev_error": 0.4 / number, "dev_loss": 1.0, "seconds": seconds * number / rows}
        record.append_metrics(line)
    result = {"steps": job.total_steps, "seconds": seconds, "test_error": test_error}
    record.write_result(result | {"train_error": 0.01, "train_error_reestimated": 0.012})


@pytest.fixture
def fake_place(tmp_path):
    """Records: three seeds of two residual nets, one of a plain net, and one of first steps."""
    place = Place(tmp_path / "runs", tmp_path / "out")
    jobs = list_jobs(JobOptions())
    for job in choose_jobs(jobs, ["cifar-resnet32-fast-*"]):
        write_fake_record(place, job, 0.09 + 0.001 * job.run.seed)
    for job in choose_jobs(jobs, ["cifar-resnet110-fast-*"]):
        write_fake_record(place, job, 0.066 + 0.001 * job.run.seed, 400)
    for job in choose_jobs(jobs, ["cifar-plain32-fast-seed0", "cifar-resnet110-*-first-*-seed0"]):
        write_fake_record(place, job, 0.1)
    store_records(place)
    return place


def test_results_json_compares_each_cell_with_its_paper(fake_place):
    papers_page.write_results(fake_place, JobOptions())
    content = json.loads((fake_place.records / "results.json").read_text())
    by_row = {(c["table"], c["row"], c["recipe"]): c for c in content["cells"]}
    cell = by_row["2015, Table 6", "ResNet, 32 layers", "fast"]
    assert {"table", "net", "recipe", "seeds", "train_error", "test_error"} <= set(cell)
    assert cell["test_errors"] == pytest.approx([0.09, 0.091, 0.092])
    assert (cell["seeds"], cell["parameters"], cell["steps"]) == (3, 464_154, 12_656)
    assert (cell["test_error"], cell["test_error_sd"]) == pytest.approx((0.091, 0.001))
    assert cell["paper"] == 0.0751
    assert cell["beyond_spread"] is True
    for table in ("2015, Table 6", "2016, Table 1", "2016, Table 2", "2016, Table 3"):
        rows = [c for (name, _, _), c in by_row.items() if name == table]
        rows = [c for c in rows if c["net"] == "cifar-resnet110"]
        assert [(c["paper"], c["beyond_spread"], c["recipe"]) for c in rows] == [
            (0.0661, False, "fast")
        ]
    plain = by_row["2015, Figure 6", "plain, 32 layers", "fast"]
    assert (plain["paper"], plain["test_error_sd"], plain["seeds"]) == (None, None, 1)
    first = [c for c in content["cells"] if c["table"] == "first 2,000 steps"]
    assert [c["net"] for c in first] == ["cifar-resnet110"]
    assert content["failures"] == {}
    [difference] = content["differences"]
    assert (difference["net"], difference["than"]) == ("cifar-plain32", "cifar-resnet32")
    assert difference["difference"] == pytest.approx(0.009)
    assert difference["half_width"] is None


def test_the_interval_of_a_difference_is_that_of_two_means(tmp_path):
    place = Place(tmp_path / "runs", tmp_path / "out")
    jobs = list_jobs(JobOptions())
    for job in choose_jobs(jobs, ["cifar-resnet20-he2015-*", "cifar-plain20-he2015-*"]):
        error = 0.3 if "plain" in job.net else 0.1
        write_fake_record(place, job, error + 0.001 * job.run.seed)
    papers_page.write_results(place, JobOptions())
    differences = json.loads((place.records / "results.json").read_text())["differences"]
    half_widths = [row["half_width"] for row in differences if row["net"] == "cifar-plain20"]
    variance = np.var([0.1, 0.101, 0.102], ddof=1)
    assert half_widths == pytest.approx([4.303 * np.sqrt(2 * variance / 3)], rel=1e-3)
    page = (place.records / "README.md").read_text()
    assert "| `cifar-plain20` | `cifar-resnet20` | he2015 | +20.00 ± 0.35 | beyond" in page


def test_the_quantiles_are_those_of_printed_tables():
    printed = {2: 12.706, 3: 4.303, 5: 2.776, 6: 2.571, 31: 2.042}
    assert {seeds: round(find_t_95(seeds), 3) for seeds in printed} == printed


@pytest.mark.parametrize(
    "options", [JobOptions(seeds=(0,)), JobOptions(seeds=(7,), epochs=8, max_carry_mib=10)]
)
def test_the_options_of_a_call_only_change_what_is_missing(fake_place, options):
    for job in choose_jobs(list_jobs(JobOptions()), ["cifar-resnet1202-fast-*"]):
        write_fake_record(fake_place, job, 0.08 + 0.001 * job.run.seed)
    for job in choose_jobs(list_jobs(JobOptions()), ["cifar-resnet110-*-first-*-seed1"]):
        write_fake_record(fake_place, job, 0.2)
    written = []
    for chosen in (JobOptions(), options):
        papers_page.write_results(fake_place, chosen)
        content = json.loads((fake_place.records / "results.json").read_text())
        page, _, _ = (fake_place.records / "README.md").read_text().partition("## Missing")
        written.append((content["cells"], content["differences"], page))
    assert written[0] == written[1]
    counts = {(c["net"], c["recipe"]): c["seeds"] for c in written[1][0]}
    assert counts["cifar-resnet1202", "fast"] == counts["cifar-resnet110", "fast"] == 3
    assert counts["cifar-resnet110", "he2016, first 2,000 steps"] == 2
    assert {recipe for _, recipe in counts} == {"fast", "he2016, first 2,000 steps", "he2015", ""}


def test_a_step_of_another_batch_size_takes_another_time(tmp_path):
    place = Place(tmp_path / "runs", tmp_path / "out")
    jobs = choose_jobs(list_jobs(JobOptions(seeds=(0,))), ["cifar-preresnet1001-he2016*"])
    seconds = {"he2016": 6e5, "he2016, batches of 64": 3e5, "he2016, first 2,000 steps": 2e4}
    assert {job.recipe for job in jobs} == set(seconds)
    for job in jobs:
        write_fake_record(place, job, 0.05, seconds[job.recipe])
    times = read_step_times(place, jobs)
    step_seconds = {job.recipe: times.estimate_seconds(job) / job.total_steps for job in jobs}
    assert step_seconds["he2016, batches of 64"] == pytest.approx(3e5 / 64_000)
    assert step_seconds["he2016"] == pytest.approx(6e5 / 64_000)
    assert step_seconds["he2016, first 2,000 steps"] == pytest.approx(6e5 / 64_000)


def test_missing_runs_cost_the_measured_time(fake_place):
    papers_page.write_results(fake_place, JobOptions())
    missing = json.loads((fake_place.records / "results.json").read_text())["missing"]
    by_net = {(row["net"], row["recipe"]): row for row in missing}
    plain = by_net["cifar-plain32", "fast"]
    assert (plain["seeds"], plain["measured"]) == ([1, 2], True)
    assert plain["minutes"] == pytest.approx(200 / 60)
    estimated = by_net["cifar-resnet44", "fast"]
    assert (estimated["seeds"], estimated["measured"]) == ([0, 1, 2], False)
    assert estimated["minutes"] == pytest.approx(300 * 44 / 32 / 60)
    assert ("cifar-resnet32", "fast") not in by_net


def test_the_page_and_the_figure_are_made_from_the_records(fake_place):
    papers_page.write_results(fake_place, JobOptions())
    page = (fake_place.records / "README.md").read_text()
    [row] = re.findall(r"^\| ResNet, 32 layers.*$", page, re.MULTILINE)
    assert "464,154 (0.46 M) | 7.51 | fast (12,656 steps) | 9.00, 9.10, 9.20 | 9.10" in row
    assert "9.10 ± 0.10 | 1.00 | +1.59, beyond the spread" in row
    assert "| ResNet, 44 layers | 658,586 (0.66 M) | 7.17 | - |" in page
    assert "## The first 2,000 steps" in page
    assert "Trained on: CPU, x86_64, H100." in page
    [figure] = fake_place.records.glob("*.svg")
    assert f"({figure.name})" in page
    svg = figure.read_text()
    assert "plain nets, recipe fast, 36 epochs" in svg
    assert svg.count(">110 layers<") == svg.count(">32 layers<") == 1
    columns = {line.count("|") for line in page.splitlines() if line.startswith("| ResNet")}
    assert columns == {10}


def test_without_matplotlib_there_is_a_page_and_no_figure(fake_place, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert papers_figure.make_figures(list_finished(fake_place).values()) == {}


def test_runs_of_another_duration_are_cells_of_their_own(tmp_path):
    place = Place(tmp_path / "runs", tmp_path / "out")
    for job in choose_jobs(list_jobs(JobOptions(epochs=8, seeds=(0,))), ["cifar-plain20-fast*"]):
        write_fake_record(place, job, 0.2)
    records = list_finished(Place(place.runs, place.records)).values()
    cells = make_cells_json(measure_nets(records))
    assert [c["recipe"] for c in cells if c["net"] == "cifar-plain20"] == ["fast, 8 epochs"]
    assert [c["steps"] for c in cells if c["net"] == "cifar-plain20"] == [2812]


def test_earlier_experiments_count_as_done():
    place = Place(Path("none"), Path("none"))
    finished = list_finished(place)
    jobs = choose_jobs(
        list_jobs(JobOptions()), ["cifar-resnet20-fast-*", "cifar-resnet20-he2015-*"]
    )
    assert [job.run.id in finished for job in jobs] == [True, True, True, True, False, False]
    assert read_step_times(place, jobs).estimate_seconds(jobs[0]) > 0


def test_the_command_line_lists_refuses_and_takes_along(fake_place, tmp_path, capsys):
    places = ["--out", str(fake_place.records), "--runs", str(fake_place.runs)]
    assert papers.main([*places, "--list", "--cells", "cifar-resnet32", "--seeds", "0"]) == 0
    assert re.search(
        r"1  12,656 steps .* cifar-resnet32-fast-seed0  finished", capsys.readouterr()[0]
    )
    with pytest.raises(SystemExit) as refused:
        papers.main([*places, "--cells", "cifar-resnt20"])
    assert refused.value.code == 2
    assert "no run is called cifar-resnt20: see --list" in capsys.readouterr()[1]
    taken = tmp_path / "taken"
    assert papers.main([*places, "--minutes", "0", "--take", str(taken)]) == 0
    assert {path.name for path in taken.iterdir()} == {"runs.jsonl", "results.json"}
    assert len((taken / "runs.jsonl").read_text().splitlines()) == 8


def test_sheets_give_the_very_files_of_the_data_set(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    source.mkdir()
    files = []
    for name in ("first", "second"):
        pixels = rng.integers(0, 256, cifar_sheets.PIXEL_BYTES // 3072 * 4, np.uint8)
        pixels = np.repeat(pixels, 768).tobytes()  # compresses soon
        content = b"\x80\x02labels" + cifar_sheets.PIXELS_BEGIN + pixels + b"names."
        (source / name).write_bytes(content)
        md5 = cifar_sheets.compute_md5(io.BytesIO(content))
        files.append(cifar_sheets.DataFile(name, md5))
    monkeypatch.setattr(cifar_sheets, "FILES", tuple(files))
    monkeypatch.setattr(cifar_sheets, "METHOD", 0)
    cifar_sheets.pack_files(source, tmp_path / "sheets", workers=1)
    halves = [tmp_path / "sheets" / half for half in ("a", "b")]
    out = cifar_sheets.unpack_sheets(halves, tmp_path / "data")
    for file in files:
        unpacked = out / cifar_sheets.DATASET.folder / file.name
        assert unpacked.read_bytes() == (source / file.name).read_bytes()

    half = cifar_sheets.unpack_sheets(halves[:1], tmp_path / "half", partial_data=True)
    assert [path.name for path in half.glob("*/*")] == ["first"]
    with pytest.raises(DataError, match="give both halves"):
        cifar_sheets.unpack_sheets(halves[:1], tmp_path / "half")
    cifar_sheets.unpack_sheets(halves[1:], tmp_path / "half")
    assert len(list(half.glob("*/*"))) == 2
    rest = halves[0] / "first-rest.xz"
    sheet, small = halves[0] / "first-0.webp", io.BytesIO()
    cifar_sheets.Image.new("RGB", (32, 32)).save(small, "WEBP")
    changed = lzma.compress(lzma.decompress(rest.read_bytes())[:-1] + b"!")
    for path, damaged in (
        (rest, changed),
        (rest, rest.read_bytes()[:-9]),
        (sheet, sheet.read_bytes()[:99]),
        (sheet, small.getvalue()),
    ):
        content = path.read_bytes()
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="the sheets of first are damaged"):
            cifar_sheets.unpack_sheets(halves, tmp_path / "damaged")
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "record,shift2"], "there is no variant 'shift2': did you mean 'shift 2'?"),
        (["--arms", "branches from 0"], "there is no variant 'branches from 0'"),
        (["--seeds", "0"], "--seeds: 0 is not a whole number of 1 or more"),
        (["--limit", "-5"], "--limit: -5 is not a whole number of 1 or more"),
        (["--out", "."], "--out cannot be written: Is a directory: ."),
        (["--model", "cifar-resnt20"], "did you mean"),
    ],
)
def test_timed_runs_that_cannot_be_are_refused_in_a_sentence(words, message, capsys, monkeypatch):
    script = runpy.run_path(str(EXPERIMENTS / "record.py"))
    monkeypatch.setitem(script["measure"].__globals__, "read_splits", lambda *words: {})
    try:
        code = script["main"](["--device", "cpu", *words])
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    last_line = capsys.readouterr()[1].splitlines()[-1]
    assert message in last_line


def test_the_help_of_timed_runs_says_how_variants_are_separated(capsys):
    script = runpy.run_path(str(EXPERIMENTS / "record.py"))
    with pytest.raises(SystemExit):
        script["main"](["--help"])
    text = " ".join(capsys.readouterr()[0].split())
    assert "variants, separated by commas, or all" in text
    assert "cutout 12, full size" in text
