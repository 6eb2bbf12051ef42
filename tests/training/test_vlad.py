"""VLAD from the data to its record, in Python and on the command line."""

import json

import pytest
import torch
from safetensors.torch import load_file

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.run import Run
from residua.config.vlad_config import make_vlad_classifier
from residua.data.augment import normalise_pixels
from residua.data.images import Images
from residua.data.read import read_split
from residua.errors import DataError, Interrupted, RecordError
from residua.net.vlad import VladNetwork
from residua.report.runs import read_study_runs as read_records
from residua.training.machine import Machine
from residua.training.run import train_run
from residua.training.vlad import fit_vlad, fit_whitening_and_dictionary, sample_patches
from tests.cli_runner import run_cli

CPU_FP32 = Machine(torch.device("cpu"), "fp32")
DIGITS = get_dataset("digits")
SMALL_VLAD = "vlad,words=4,cells=1,samples=2000"


WRITES_RUN_PAGES = True


def ignore_progress(progress, line):
    pass


def load_last_weights(folder):
    return load_file(folder / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def fitted_run(tmp_path_factory):
    """The folder of a run of the default VLAD, fitted by the command line."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    assert main(["train", "digits", "--model", "vlad", "--out", str(folder)]) == 0
    return folder


def test_vlad_classifies_digits(fitted_run):
    result = json.loads((fitted_run / "run.json").read_text())["result"]
    assert result["train_error"] < 0.02
    assert result["dev_error"] < 0.05
    assert result["test_error"] < 0.04


def test_a_vlad_result_has_the_same_keys_as_a_network_result(capsys, tmp_path):
    out = []
    for name, options in ((SMALL_VLAD, []), ("cifar-resnet8", ["--steps", "2"])):
        command = [
            "train",
            "digits",
            "--model",
            name,
            *options,
            "--json",
            "--out",
            str(tmp_path / name),
        ]
        out.append(json.loads(run_cli(capsys, *command)[1]))
    assert list(out[0]) == [
        key for key in out[1] if key not in ("train_error_reestimated", "train_loss")
    ]  # of BN
    assert out[0]["steps"] == 0
    assert out[0]["best_dev_error"] == out[0]["dev_error"]
    names = {path.name for path in (tmp_path / SMALL_VLAD).iterdir()}
    assert names == {"run.json", "last", "evaluation"}
    assert out[0]["page"] is None  # nothing was trained by steps


def test_evaluate_reproduces_the_error_of_the_run(capsys, fitted_run):
    result = json.loads((fitted_run / "run.json").read_text())["result"]
    for split, precision in (("test", "fp32"), ("dev", "bf16")):
        command = [
            "evaluate",
            str(fitted_run),
            "digits",
            "--split",
            split,
            "--precision",
            precision,
            "--json",
        ]
        assert json.loads(run_cli(capsys, *command)[1])["error"] == result[f"{split}_error"]


def test_the_same_seed_is_bit_identical_and_another_seed_differs(tmp_path):
    value = make_vlad_classifier(SMALL_VLAD, DIGITS.input, 10)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train_run(
            Run(value, "digits", None, seed),
            tmp_path / name,
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=lambda: False,
        )
    a, b, c = (load_last_weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


def test_a_finished_run_is_not_fitted_again(capsys, fitted_run):
    before = (fitted_run / "run.json").read_bytes()
    code, out, note = run_cli(
        capsys, "train", "digits", "--model", "vlad", "--json", "--out", str(fitted_run)
    )
    assert code == 0
    assert note.endswith(
        "already finished; nothing was trained: to repeat it, choose another --out"
    )
    facts = {**json.loads(before)["result"], "folder": str(fitted_run), "trained": False}
    assert facts.items() <= json.loads(out).items()
    assert (fitted_run / "run.json").read_bytes() == before


def test_an_interrupted_run_restarts_and_is_bit_identical(tmp_path):
    run = Run(make_vlad_classifier(SMALL_VLAD, DIGITS.input, 10), "digits", None)
    steps = 1 + 21 + 10  # dictionary, chunks of 64 images, classes
    for after in (1, 15, steps - 1):
        left = iter(range(after - 1))
        with pytest.raises(
            Interrupted, match=f"stopped at step {after} of {steps}: to continue, repeat"
        ):
            train_run(
                run,
                tmp_path / "r",
                CPU_FP32,
                resume=True,
                on_progress=ignore_progress,
                should_stop=lambda left=left: next(left, None) is None,
            )
    steps_reported = []
    train_run(
        run,
        tmp_path / "r",
        CPU_FP32,
        resume=True,
        on_progress=lambda progress, line: steps_reported.append(progress.step),
        should_stop=lambda: False,
    )
    assert steps_reported == list(range(1, steps + 1))
    train_run(
        run, tmp_path / "whole", CPU_FP32, on_progress=ignore_progress, should_stop=lambda: False
    )
    ours, theirs = load_last_weights(tmp_path / "r"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_whitened_patches_are_uncorrelated_with_unit_variance():
    net = VladNetwork(make_vlad_classifier("vlad", DIGITS.input, 10))
    patches = sample_patches(net, read_split(DIGITS, "train"), DIGITS.mean, DIGITS.std, seed=0)
    fit_whitening_and_dictionary(net, patches, seed=0)
    x = net.whiten_patches(patches)
    assert patches.shape == (200_000, 16)
    assert x.mean(0).abs().max() < 1e-4
    assert (torch.cov(x.T) - torch.eye(8)).abs().max() < 1e-3


def test_sampled_patches_come_from_the_images():
    net = VladNetwork(make_vlad_classifier("vlad,samples=50", DIGITS.input, 10))
    images = read_split(DIGITS, "train")[:3]
    every = (
        net.extract_normalised_patches(normalise_pixels(images.pixels, DIGITS.mean, DIGITS.std))
        .flatten(0, 1)
        .double()
    )
    distances = torch.cdist(
        sample_patches(net, images, DIGITS.mean, DIGITS.std, seed=0).double(), every
    )
    assert distances.min(1).values.max() < 1e-6
    assert len(distances.argmin(1).unique()) > 25


def test_images_without_contrast_can_be_fitted():
    """Half of each image is blank: directions without variance are not amplified."""
    images = read_split(DIGITS, "train")
    images.pixels[:, :, 4:] = 0
    net = VladNetwork(
        make_vlad_classifier("vlad,cells=1,words=4,patch=4,dimensions=15", DIGITS.input, 10)
    )
    fit_vlad(
        net,
        images,
        DIGITS.mean,
        DIGITS.std,
        0,
        on_progress=ignore_progress,
        should_stop=lambda: False,
    )
    assert all(buffer.isfinite().all() for buffer in net.buffers())
    assert net.whitening.abs().max() <= 100


def test_a_class_without_images_is_reported():
    images = read_split(DIGITS, "train")
    images = Images(images.pixels[images.labels != 3], images.labels[images.labels != 3])
    with pytest.raises(
        DataError, match="class 3 has no training images: an SVM needs images of every class"
    ):
        fit_vlad(
            VladNetwork(make_vlad_classifier("vlad", DIGITS.input, 10)),
            images,
            (0.0,),
            (1.0,),
            0,
            on_progress=ignore_progress,
            should_stop=lambda: False,
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--model", "vlad", "--steps", "0"],
            "--steps does not apply to --model vlad: leave it out",
        ),
        (
            ["--model", "vlad", "--epochs", "2"],
            "--epochs does not apply to --model vlad: leave it out",
        ),
        (
            ["--model", "vlad", "--recipe", "small"],
            "--recipe does not apply to --model vlad: leave it out",
        ),
        (
            ["--model", "vlad", "--set", "batch_size=3"],
            "--set does not apply to --model vlad: leave it out",
        ),
        (
            ["--model", "vlad,words=4", "--balance"],
            "--balance does not apply to --model vlad,words=4: leave it out",
        ),
        (
            ["--model", "vlad", "--from", "x"],
            "--from does not apply to --model vlad: leave it out",
        ),
        (
            ["--model", "vlad", "--precision", "bf16"],
            "--precision bf16 does not apply to vlad, which is always fitted in fp32: leave it out",
        ),
        (["--model", "vlda"], "there is no model 'vlda': did you mean 'vlad'?"),
        (["--model", "vlad,words=0"], "words=0 is invalid: it must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_network_options_give_a_one_line_error_for_vlad(capsys, tmp_path, options, sentence):
    assert run_cli(capsys, "train", "digits", *options, "--out", str(tmp_path / "r")) == (
        2,
        "",
        f"residua: {sentence}",
    )
    assert not list(tmp_path.iterdir())


def test_vlad_weights_are_refused_as_initial_weights_of_a_network(capsys, fitted_run, tmp_path):
    code, _, sentence = run_cli(
        capsys, "train", "digits", "--from", str(fitted_run), "--out", str(tmp_path / "r")
    )
    assert (code, sentence.partition(" holds ")[2]) == (
        2,
        "a vlad model, which has none: give another folder",
    )


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path):
    code, out, _ = run_cli(
        capsys,
        "train",
        "digits",
        "--model",
        "vlad",
        "--dry-run",
        "--json",
        "--out",
        str(tmp_path / "r"),
    )
    assert code == 0
    facts = {
        "model": "vlad",
        "parameters": 5402,
        "data": "digits",
        "training_images": 1288,
        "patches_per_image": 25,
        "descriptor_numbers": 512,
        "descriptor_bytes": 8 * 512 * 1288,
        "precision": "fp32",
    }
    assert facts.items() <= json.loads(out).items()
    assert not list(tmp_path.iterdir())


def test_the_report_states_that_vlad_is_not_a_network(fitted_run):
    with pytest.raises(
        RecordError,
        match=r"contains no trained network, so there is no report to write: "
        r"the run's result on digits is in .*run\.json",
    ):
        read_records(fitted_run)
