"""What a run measures arrives in TensorBoard, Weights & Biases, MLflow and own objects."""

import errno
import json
import os
import struct
from importlib.util import find_spec

import numpy as np
import pytest

import residua
from residua.errors import Interrupted, TrainingError, UsageError
from residua.record import RunRecord
from residua.training.checkpoint import CheckpointPolicy, list_checkpoints
from residua.training.loggers import tensorboard_logger
from residua.training.loggers.make_loggers import make_run_loggers
from residua.training.loggers.run_logs import RunLogs
from residua.training.progress import call_listeners
from residua.training.run import train_run
from tests.cli_runner import run_cli
from tests.same_weights import require_equal_weights
from tests.training.fake_trackers import install_fake_mlflow, install_fake_wandb
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    make_digits_run,
    never_stop,
    stop_after,
)

needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
STEPS = 100  # a row of metrics.jsonl after every 20
COLUMNS = ("epoch", "lr", "loss", "train_error", "dev_error", "dev_loss")


class OwnLogger:
    def __init__(self):
        self.started, self.rows, self.results = [], [], []

    def start(self, settings, folder):
        self.started.append((settings, folder))

    def log_values(self, step, values):
        self.rows.append((step, values))

    def finish(self, result):
        self.results.append(result)


class FailingLogger(OwnLogger):
    def log_values(self, step, values):
        if self.rows:
            raise ConnectionError("the server is gone.")
        super().log_values(step, values)


def train_logged(folder, log, should_stop=never_stop, warnings=None, **settings):
    """Train 100 steps on digits, with a checkpoint every 10, and log them."""
    warn = pytest.fail if warnings is None else warnings.append
    with RunLogs(make_run_loggers(log), warn) as logs:
        result = train_run(
            make_digits_run(steps=STEPS, **settings),
            folder,
            CPU_FP32,
            resume=True,
            checkpoint_policy=CheckpointPolicy(every_steps=10, keep_last=4),
            on_start=logs.start,
            on_progress=call_listeners(ignore_progress, logs),
            should_stop=should_stop,
        )
        logs.finish(result)
    return result


def stop_then_resume_from_an_earlier_checkpoint(folder, log):
    """Train 50 steps, lose the checkpoints of the last steps as a kill does, and train to the end.

    The row of step 40 is logged twice.
    """
    with pytest.raises(Interrupted):
        train_logged(folder, log, stop_after(50))
    checkpoints = list_checkpoints(folder / "checkpoints")
    for checkpoint in checkpoints:
        if int(checkpoint.stem.rpartition("-")[2]) >= 40:
            checkpoint.unlink()
    assert list_checkpoints(folder / "checkpoints"), checkpoints
    return train_logged(folder, log)


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def require_recorded_values(folder, logged):
    """Compare logged values, {name: [(step, value), ...]}, with run.json and metrics.jsonl."""
    record = RunRecord(folder)
    rows, result = record.read_metrics(), record.read_result()
    for name in COLUMNS:
        assert logged[name] == [(row["step"], row[name]) for row in rows], name
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    assert len(numbers) > 10
    for name, value in numbers.items():
        assert logged[f"result/{name}"] == [(result["steps"], value)], name
    assert [step for step, _ in logged["images_per_second"]] == [row["step"] for row in rows]


def in_fp32(pairs):
    return [(step, np.float32(value)) for step, value in pairs]


@needs_tensorboard
def test_tensorboard_reads_what_the_record_of_a_run_holds(tmp_path):
    train_logged(tmp_path / "r", "tensorboard")
    events = read_events(tmp_path / "r")
    logged = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    record = RunRecord(tmp_path / "r")
    rows, result = record.read_metrics(), record.read_result()
    assert len(rows) == 5
    for name in COLUMNS:
        assert logged[name] == in_fp32((row["step"], row[name]) for row in rows), name
    for name in ("test_error", "dev_error", "train_error", "seconds", "images_per_second"):
        assert logged[f"result/{name}"] == in_fp32([(STEPS, result[name])]), name
    assert set(logged) >= {f"result/{name}" for name in result if "interval" not in name} - {
        "result/model"
    }
    assert events.Tags()["tensors"] == ["_hparams_/session_start_info"]


def read_as_the_server(folder):
    """Read event files as TensorBoard's server does; returns its reader with all values kept."""
    from tensorboard.backend.event_processing import plugin_event_accumulator as server

    events = server.EventAccumulator(str(folder), size_guidance={server.TENSORS: 0})
    events.Reload()
    return events


@needs_tensorboard
def test_the_curve_of_a_resumed_run_has_every_step_once(tmp_path):
    stop_then_resume_from_an_earlier_checkpoint(tmp_path / "r", "tensorboard")
    assert len(list((tmp_path / "r").glob("*tfevents*"))) == 2
    events = read_events(tmp_path / "r")
    rows = RunRecord(tmp_path / "r").read_metrics()
    for name in COLUMNS:
        steps = [event.step for event in events.Scalars(name)]
        assert steps == [20, 40, 60, 80, 100]
        assert [event.value for event in events.Scalars(name)] == [
            np.float32(row[name]) for row in rows
        ]
    # the speed is that of the steps which the record counts, not of those that were lost
    images = 20 * RunRecord(tmp_path / "r").read_run().recipe.batch_size
    rates = images / np.diff([0, *(row["seconds"] for row in rows)])
    logged_rates = [event.value for event in events.Scalars("images_per_second")]
    assert logged_rates == pytest.approx(rates.tolist(), rel=1e-5)
    [result] = events.Scalars("result/test_error")
    assert result.step == STEPS
    served = read_as_the_server(tmp_path / "r").Tensors("loss")
    assert [event.step for event in served] == [20, 40, 60, 80, 100]
    assert [event.wall_time for event in served] == [
        event.wall_time for event in events.Scalars("loss")
    ]


def test_a_full_disk_ends_the_log_with_one_warning_and_not_the_run(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    append, room = tensorboard_logger.append_bytes, iter(range(4))

    def append_until_full(path, data):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        append(path, data)

    monkeypatch.setattr(tensorboard_logger, "append_bytes", append_until_full)
    warnings = []
    result = train_logged(tmp_path / "r", "tensorboard", warnings=warnings)
    assert result["steps"] == STEPS
    [warning] = warnings
    assert warning.startswith(
        "tensorboard failed and gets nothing more of this run, which is not affected: "
        f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
    )
    assert [event.step for event in read_events(tmp_path / "r").Scalars("loss")] == [20]


def test_a_logger_that_fails_does_not_stop_the_others_or_change_the_weights(tmp_path):
    own, failing, warnings = OwnLogger(), FailingLogger(), []
    train_logged(tmp_path / "a", [failing, own], warnings=warnings)
    train_logged(tmp_path / "b", [])
    assert warnings == [
        "FailingLogger failed and gets nothing more of this run, which is not affected: "
        "the server is gone"
    ]
    assert [step for step, _ in own.rows] == [20, 40, 60, 80, 100]
    assert failing.results == []
    weights = [residua.load(tmp_path / name).net for name in "ab"]
    require_equal_weights(*weights)


def test_a_logger_that_cannot_start_ends_the_run_before_its_first_step(tmp_path):
    class Offline(OwnLogger):
        def start(self, settings, folder):
            raise ConnectionError("no server at 127.0.0.1")

    with pytest.raises(TrainingError) as caught:
        train_logged(tmp_path / "r", Offline())
    folder = tmp_path / "r"
    assert str(caught.value) == (
        "Offline cannot log this run: no server at 127.0.0.1; nothing was trained: repeat the "
        f"command with --resume and --out {folder}, with or without --log"
    )
    assert not (folder / "metrics.jsonl").exists()
    for log in ([], OwnLogger()):  # what the sentence says
        with pytest.raises(Interrupted):
            train_logged(folder, log, stop_after(10))


def test_a_logger_that_cannot_start_names_no_folder_that_is_not_kept():
    class Offline(OwnLogger):
        def start(self, settings, folder):
            raise ConnectionError("no server")

    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8), [0, 1] * 20
    with pytest.raises(TrainingError) as caught:
        residua.train("cifar-resnet8", images, steps=2, log=Offline(), quiet=True)
    assert str(caught.value).endswith("nothing was trained: repeat the command with or without log")
    assert residua.train("cifar-resnet8", images, steps=2, log=None, quiet=True).folder is None


def test_rows_of_a_session_without_a_logger_are_logged_by_the_next_one(
    tmp_path, monkeypatch, all_are_installed
):
    """Of rows that a session without log has written, and of no row that comes again."""
    pytest.importorskip("tensorboard")
    [wandb_runs, mlflow_runs] = install_fake_wandb(monkeypatch), install_fake_mlflow(monkeypatch)
    for log, steps in (([], 30), (["tensorboard", "wandb", "mlflow"], 20), ([], 20)):
        with pytest.raises(Interrupted):
            train_logged(tmp_path / "r", log, stop_after(steps))
    for checkpoint in list_checkpoints(tmp_path / "r" / "checkpoints"):
        if int(checkpoint.stem.rpartition("-")[2]) >= 70:
            checkpoint.unlink()
    train_logged(tmp_path / "r", ["tensorboard", "wandb", "mlflow"])
    steps = [20, 40, 60, 80, 100]
    events = read_events(tmp_path / "r")
    for name in (*COLUMNS, "images_per_second"):
        assert [event.step for event in events.Scalars(name)] == steps
    [run] = wandb_runs.values()
    assert [step for step, _ in run.rows] == steps
    [run] = mlflow_runs.values()
    assert [step for name, _, step in run["metrics"] if name == "loss"] == steps


def test_a_finished_run_says_that_nothing_is_logged(tmp_path, capsys):
    words = ["train", "digits", "--model", "cifar-resnet8", "--steps", "2", "--out", tmp_path / "r"]
    assert run_cli(capsys, *words)[0] == 0
    _, _, err = run_cli(capsys, *words)
    assert f"the run in {tmp_path / 'r'} is already finished; nothing was trained: to" in err
    own = OwnLogger()
    residua.train("cifar-resnet8", "digits", steps=2, out=tmp_path / "r", log=own)
    assert own.started == []
    assert "is already finished; nothing was logged" in capsys.readouterr().err


def test_a_run_that_stops_tells_its_loggers_so(tmp_path):
    own = OwnLogger()
    with pytest.raises(Interrupted):
        train_logged(tmp_path / "r", own, stop_after(50))
    assert own.results == [None]
    train_logged(tmp_path / "r", own)
    assert own.results[1] == RunRecord(tmp_path / "r").read_result()
    assert [step for step, _ in own.rows] == [20, 40, 60, 80, 100]
    train_logged(tmp_path / "r", own)  # finished: nothing is trained, and nothing logged
    assert len(own.started) == 2


@pytest.fixture
def all_are_installed(monkeypatch):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: name)


def test_a_resumed_run_goes_on_in_the_same_run_of_weights_and_biases(
    tmp_path, monkeypatch, all_are_installed
):
    """With a stand-in for the library; the test below asks the library itself."""
    runs = install_fake_wandb(monkeypatch)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    result = stop_then_resume_from_an_earlier_checkpoint(tmp_path / "r", "wandb")
    [run] = runs.values()
    assert run.settings["project"] == "residua"
    assert (run.settings["name"], run.settings["dir"]) == ("r", str(tmp_path / "r"))
    assert run.settings["config"]["run"]["network"]["name"] == "cifar-resnet8"
    logged = {name: [(step, row[name]) for step, row in run.rows] for name in run.rows[0][1]}
    logged |= {name: [(STEPS, value)] for name, value in run.summary.items()}
    require_recorded_values(tmp_path / "r", logged)
    assert run.summary["result/test_error"] == result["test_error"]
    assert run.exit_codes == [1, 0]


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(tmp_path, monkeypatch, all_are_installed):
    """With a stand-in for the library; the test below asks the library itself."""
    runs = install_fake_mlflow(monkeypatch)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    stop_then_resume_from_an_earlier_checkpoint(tmp_path / "r", "mlflow")
    [run] = runs.values()
    assert (run["experiment"], run["name"]) == ("the experiment digits", "r")
    params = dict(run["params"])
    assert len(params) == len(run["params"])
    assert params["run.network.name"] == "cifar-resnet8"
    assert params["run.recipe.steps"] == "100"
    logged = {}
    for name, value, step in run["metrics"]:
        logged.setdefault(name, []).append((step, value))
    require_recorded_values(tmp_path / "r", logged)
    assert run["states"] == ["KILLED", "RUNNING", "FINISHED"]


def test_mlflow_itself_holds_the_recorded_values_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    stop_then_resume_from_an_earlier_checkpoint(tmp_path / "r", "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("residua")
    [run] = client.search_runs([experiment.experiment_id])
    logged = {
        name: [
            (value.step, value.value) for value in client.get_metric_history(run.info.run_id, name)
        ]
        for name in run.data.metrics
    }
    require_recorded_values(tmp_path / "r", logged)
    assert run.info.status == "FINISHED"
    assert run.data.params["run.dataset"] == "digits"


def split_wandb_file(content):
    """Split a .wandb file, 7 bytes and then LevelDB's log format, into its records."""
    record, position = b"", 7
    while position < len(content):
        room = 32768 - position % 32768
        if room < 7:  # too little for a header: the rest of the block is empty
            position += room
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last part
            yield record
            record = b""


def test_weights_and_biases_itself_writes_both_sessions_of_a_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    stop_then_resume_from_an_earlier_checkpoint(tmp_path / "r", "wandb")
    wandb.teardown()  # waits for the process that writes the files
    run_id = json.loads((tmp_path / "r" / "wandb-run.json").read_text())["id"]
    logged = {}
    files = sorted((tmp_path / "r" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2
    for file in files:
        for data in split_wandb_file(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            for item in record.history.item:
                name = item.key or item.nested_key[0]
                pair = (record.history.step.num, json.loads(item.value_json))
                logged.setdefault(name, []).append(pair)
            for item in record.summary.update:
                name = item.key or "/".join(item.nested_key)
                if name.startswith("result/"):
                    logged[name] = [(STEPS, json.loads(item.value_json))]
    require_recorded_values(tmp_path / "r", logged)


def test_a_damaged_identity_is_refused_before_training(tmp_path, monkeypatch, all_are_installed):
    install_fake_wandb(monkeypatch)
    with pytest.raises(Interrupted):
        train_logged(tmp_path / "r", "wandb", stop_after(5))
    (tmp_path / "r" / "wandb-run.json").write_text("[]")
    with pytest.raises(residua.RecordError, match=r"wandb-run\.json is damaged: delete it, and"):
        train_logged(tmp_path / "r", "wandb")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_one_sentence_before_anything_is_trained(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    code, out, err = run_cli(capsys, "train", "digits", "--log", name, "--out", tmp_path / "r")
    assert (code, out) == (2, "")
    assert err == f"residua: {name} is not installed: pip install {name}"
    assert not (tmp_path / "r").exists()


def test_an_unknown_logger_is_named_with_the_nearest_one(tmp_path, capsys):
    code, _, err = run_cli(capsys, "train", "digits", "--log", "tensorbord", "--out", tmp_path)
    assert (code, err) == (
        2,
        "residua: there is no logger 'tensorbord': did you mean 'tensorboard'?",
    )


def test_names_may_be_repeated_or_separated_by_commas(all_are_installed):
    assert list(make_run_loggers(["tensorboard, wandb", "mlflow", "wandb"])) == [
        "tensorboard",
        "wandb",
        "mlflow",
    ]
    own = OwnLogger()
    assert list(make_run_loggers(["tensorboard", own, OwnLogger()])) == [
        "tensorboard",
        "OwnLogger",
        "OwnLogger 2",
    ]
    assert make_run_loggers(own) == {"OwnLogger": own}


@needs_tensorboard
def test_the_command_line_and_python_log_the_same(tmp_path, capsys):
    options = ["--model", "cifar-resnet8", "--steps", "20", "--precision", "fp32", "--json"]
    place = ["--log", "tensorboard", "--out", tmp_path / "a"]
    code, out, _ = run_cli(capsys, "train", "digits", *options, *place)
    assert code == 0
    own = OwnLogger()
    result = residua.train(
        "cifar-resnet8",
        "digits",
        steps=20,
        precision="fp32",
        out=tmp_path / "b",
        log=["tensorboard", own],
        quiet=True,
    )
    losses = [read_events(tmp_path / name).Scalars("loss") for name in "ab"]
    [(first, second)] = zip(*losses, strict=True)
    assert (first.step, first.value) == (second.step, second.value)
    [(settings, folder)] = own.started
    assert (settings["run"]["dataset"], folder) == ("digits", tmp_path / "b")
    assert own.rows[0][1]["loss"] == RunRecord(tmp_path / "b").read_metrics()[0]["loss"]
    [logged_result] = own.results
    assert logged_result["test_error"] == result.metrics["test_error"]
    assert json.loads(out)["test_error"] == result.metrics["test_error"]


def test_python_refuses_what_cannot_be_logged(tmp_path, all_are_installed):
    with pytest.raises(UsageError, match="^tensorboard writes to the folder of the run: add out$"):
        residua.train("cifar-resnet8", "digits", steps=2, log="tensorboard", quiet=True)
    with pytest.raises(
        UsageError, match="^int is not a run logger, because it has no method start"
    ):
        residua.train("cifar-resnet8", "digits", steps=2, log=[3], quiet=True)
