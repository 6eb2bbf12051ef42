"""Exported files have PyTorch's outputs and all metadata, and are written whole or not at all."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import residua
from residua.cli.export import compute_int8_loss_points
from residua.cli.main import main
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.images import Images
from residua.deploy import export as exports
from residua.deploy.export import export_model
from residua.deploy.export_check import EXPORT_TOLERANCE, OutputDifference, largest_difference
from residua.deploy.export_files import load_exported_runner
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.int8 import Int8Samples, measure_int8_cost
from residua.deploy.translate import import_openvino
from residua.errors import RecordError, UsageError
from residua.extras import EXTRA_PACKAGES
from residua.net.model_folder import save_pretrained
from tests.deploy.live_server import CLASSES, make_small_model
from tests.third_party import randomize_weights

onnxruntime = pytest.importorskip("onnxruntime")
if find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)
openvino = import_openvino()
EXPORTED_NETWORKS = {
    "v1, option A": "cifar-resnet8",
    "v2, option B": "cifar-preresnet8,shortcut=B",
    "bottleneck": "cifar-resnet11,block=bottleneck",
    "gate": "cifar-highway8",
    "VLAD head": "cifar-resnet8,head=vlad",
}


@pytest.fixture
def model_folder(tmp_path):
    save_pretrained(*make_small_model(), tmp_path / "model")
    return tmp_path / "model"


def make_random_pixels(count):
    return torch.randint(
        256,
        (count, 3, 16, 16),
        generator=torch.Generator().manual_seed(count + 9),
        dtype=torch.uint8,
    )


@pytest.mark.parametrize("name", EXPORTED_NETWORKS.values(), ids=EXPORTED_NETWORKS)
def test_an_onnx_file_matches_pytorch_at_any_batch_size(tmp_path, name):
    net, config = make_small_model(name)
    facts = export_model(net, config, "onnx", tmp_path / "m.onnx")
    assert facts["difference"] <= EXPORT_TOLERANCE
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5, 8):
        x = normalise_pixels(make_random_pixels(count), config.mean, config.std)
        with torch.inference_mode():
            scores = net(x)
        exported_scores, probabilities = session.run(None, {"images": x.contiguous().numpy()})
        assert np.abs(exported_scores - scores.numpy()).max() <= 1e-4
        assert (
            np.abs(probabilities - (scores / config.temperature).softmax(1).numpy()).max() <= 1e-4
        )


@pytest.mark.parametrize("bakes", [False, True], ids=["normalised", "uint8"])
@pytest.mark.parametrize("export_format", ["openvino", "torch-export"])
def test_other_formats_match_pytorch(tmp_path, export_format, bakes):
    net, config = make_small_model()
    facts = export_model(net, config, export_format, tmp_path / "out", bake_preprocessing=bakes)
    assert facts["takes"] == (
        "pixels: (batch, 3, 16, 16) uint8"
        if bakes
        else "images: (batch, 3, 16, 16) fp32, normalised"
    )
    run_exported = load_exported_runner(export_format, tmp_path / "out")
    for count in (1, 5):
        x = normalise_pixels(make_random_pixels(count), config.mean, config.std)
        with torch.inference_mode():
            scores, _ = run_exported(make_random_pixels(count) if bakes else x)
            assert (scores - net(x)).abs().max() <= 1e-4


def read_metadata(export_format, path):
    match export_format:
        case "onnx":
            return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        case "openvino":
            info = openvino.Core().read_model(path / "model.xml").get_rt_info(["residua"]).value
            return {
                name: value.value if hasattr(value, "value") else value
                for name, value in info.items()
            }
    extra_files = {"residua.json": ""}
    with open(path, "rb") as file:
        torch.export.load(file, extra_files=extra_files)
    return json.loads(extra_files["residua.json"])


@pytest.mark.parametrize("export_format", ["onnx", "openvino", "torch-export"])
def test_classes_and_preprocessing_are_stored_in_the_exported_file(tmp_path, export_format):
    net, config = make_small_model()
    config = ModelConfig(
        network=config.network,
        classes=("é", "b,c", '"d'),
        mean=config.mean,
        std=config.std,
        resize=20,
    )
    export_model(net, config, export_format, tmp_path / "out", bake_preprocessing=True)
    metadata = read_metadata(export_format, tmp_path / "out")
    assert json.loads(metadata["classes"]) == ["é", "b,c", '"d']
    assert json.loads(metadata["input"]) == [3, 16, 16]
    assert json.loads(metadata["mean"]) == list(config.mean)
    assert json.loads(metadata["std"]) == list(config.std)
    assert json.loads(metadata["resize"]) == 20
    assert metadata["interpolation"] == "bilinear"
    assert (
        metadata["preprocessing"]
        == "RGB, shorter side resized to 20 (bilinear, antialiased), center crop 16 x 16"
    )
    for file in (
        [tmp_path / "out"] if (tmp_path / "out").is_file() else (tmp_path / "out").iterdir()
    ):
        assert str(tmp_path).encode() not in file.read_bytes()
        assert b"residua/net" not in file.read_bytes()  # no stack trace of our source


def test_an_export_that_differs_from_pytorch_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        exports,
        "measure_output_difference",
        lambda *_: OutputDifference(
            score_difference=0.5, probability_difference=0.01, largest_score=3.0
        ),
    )
    with pytest.raises(
        RecordError,
        match=r"m.onnx was not written: its probabilities differ from PyTorch's by 1.0e-02, "
        r"its scores by 5.0e-01",
    ):
        export_model(*make_small_model(), "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("output", [0, 1], ids=["scores", "probabilities"])
def test_an_export_with_outputs_that_are_not_finite_is_not_written(
    tmp_path, monkeypatch, bad, output
):
    """One such number among many: the largest of nan and a number may be the number."""
    load_runner = exports.load_exported_runner

    def load_faulty_runner(*arguments):
        run_exported = load_runner(*arguments)

        def run_faulty(images):
            outputs = [x.clone() for x in run_exported(images)]
            outputs[output][-1, 1] = bad
            return tuple(outputs)

        return run_faulty

    monkeypatch.setattr(exports, "load_exported_runner", load_faulty_runner)
    with pytest.raises(RecordError, match="was not written: its outputs, or those of PyTorch, are"):
        export_model(*make_small_model(), "torch-export", tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_int8_scores_that_are_not_finite_are_refused(precision):
    net, config = make_small_model()
    module = ExportableClassifier(net, config, bake_preprocessing=True)
    held_out = Images(make_random_pixels(5), torch.zeros(5, dtype=torch.int64))
    samples = Int8Samples(make_random_pixels(2), held_out, "test", True, "noise")
    compute = {"fp32": lambda batch: module(batch)[0], "int8": lambda batch: module(batch)[0]}
    assert measure_int8_cost(*compute.values(), module, config, samples)["agreement"] == 1
    finite = compute[precision]
    compute[precision] = lambda batch: finite(batch).where(torch.arange(3) > 0, torch.nan)
    with pytest.raises(RecordError, match=f"scores in {precision} are not finite"):
        measure_int8_cost(*compute.values(), module, config, samples)


def test_engines_with_a_probability_that_is_not_finite_do_not_agree():
    first = torch.tensor([[0.5, 0.5], [torch.nan, 0.5]])
    for second in (first, torch.full((2, 2), 0.5)):
        assert largest_difference(first, second) == float("inf")
    assert largest_difference(torch.zeros(2, 3), torch.zeros(2, 2)) == float("inf")
    assert largest_difference(torch.tensor([0.25]), torch.tensor([0.75])) == 0.5


def test_the_temperature_that_is_baked_into_the_file_is_said(tmp_path, capsys):
    net, config = make_small_model()
    for temperature, sentence in (
        (1.0, "probabilities: the softmax of the scores (the model stores no temperature)"),
        (1.5, "probabilities: the softmax of scores / 1.500, the model's temperature"),
    ):
        folder = tmp_path / str(temperature)
        save_pretrained(net, replace(config, temperature=temperature), folder)
        command = ["export", str(folder), "--to", "torch-export", "--out"]
        assert main([*command, str(folder / "m.pt2")]) == 0
        assert sentence in capsys.readouterr().out.splitlines()
        assert main([*command, str(folder / "n.pt2"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["temperature"] == temperature


def test_the_tolerance_is_relative_for_large_scores_only():
    assert OutputDifference(
        score_difference=9e-5, probability_difference=0.0, largest_score=0.1
    ).is_within_tolerance
    assert not OutputDifference(
        score_difference=2e-4, probability_difference=0.0, largest_score=0.1
    ).is_within_tolerance
    assert OutputDifference(
        score_difference=2e-2, probability_difference=0.0, largest_score=1000.0
    ).is_within_tolerance
    assert not OutputDifference(
        score_difference=0.0, probability_difference=2e-4, largest_score=1000.0
    ).is_within_tolerance


def test_a_full_disk_leaves_no_partial_export(tmp_path, model_folder):
    """The process runs with a limit of 100 kB per file, which fails like a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from residua.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "export",
        str(model_folder),
        "--to",
        "onnx",
        "--out",
        str(tmp_path / "m.onnx"),
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "File too large" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("export_format", ["onnx", "openvino"])
def test_int8_is_calibrated_on_real_images_and_its_accuracy_loss_is_reported(
    tmp_path, capsys, export_format
):
    from residua.config.dataset import get_dataset

    data = get_dataset("digits")
    net = randomize_weights(residua.create_model("cifar-resnet8", num_classes=10, input=data.input))
    config = ModelConfig(
        network=net.plan.network, classes=data.classes, mean=data.mean, std=data.std
    )
    save_pretrained(net, config, tmp_path / "model")
    out = tmp_path / "out"
    assert (
        main(
            [
                "export",
                str(tmp_path / "model"),
                "--to",
                export_format,
                "--int8",
                "--images",
                "digits",
                "--out",
                str(out),
                "--json",
            ]
        )
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 359
    assert facts["agreement"] > 0.8
    assert abs(facts["int8_error"] - facts["fp32_error"]) < 0.1
    weights = out.stat().st_size if export_format == "onnx" else (out / "model.bin").stat().st_size
    assert weights < 0.5 * (tmp_path / "model" / "model.safetensors").stat().st_size
    assert read_metadata(export_format, out)["precision"] == "int8, calibrated on 512 images"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--to", "onyx"], 2, "--to has no value 'onyx': did you mean 'onnx'?"),
        (
            ["--to", "onnx", "--int8"],
            2,
            "--int8 needs images to calibrate on: add --images DIR",
        ),
        (["--to", "onnx", "--images", "digits"], 2, "--images only applies with --int8"),
        (
            ["--to", "torch-export", "--int8", "--images", "digits"],
            2,
            "int8 is for onnx and openvino",
        ),
        (
            ["--to", "onnx", "--int8", "--images", "digits"],
            2,
            "takes images of shape (3, 16, 16), but those of digits have shape (1, 8, 8)",
        ),
        (["--to", "onnx", "--out", "{tmp}/model"], 2, "already exists: choose another --out"),
    ],
)
def test_each_usage_error_is_reported(tmp_path, model_folder, capsys, arguments, code, sentence):
    command = [
        "export",
        str(model_folder),
        "--out",
        str(tmp_path / "x"),
        *(a.format(tmp=tmp_path) for a in arguments),
    ]
    try:
        exit_code = main(command)
    except SystemExit as error:
        exit_code = error.code
    err = capsys.readouterr().err
    assert exit_code == code
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_the_int8_accuracy_loss_is_computed_in_percentage_points():
    assert compute_int8_loss_points({"fp32_error": 0.08, "int8_error": 0.095}) == pytest.approx(1.5)
    assert compute_int8_loss_points({"agreement": 0.9}) == 0


def test_a_missing_library_is_reported_with_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(EXTRA_PACKAGES, "openvino", ("no_such_package",))
    with pytest.raises(
        UsageError,
        match="openvino needs no-such-package, which is not installed: pip install no-such-package",
    ):
        export_model(*make_small_model(), "openvino", tmp_path / "out")


def test_only_a_model_folder_can_be_exported(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"x")
    command = ["export", str(tmp_path / "m.onnx"), "--to", "onnx", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert re.search("is an ONNX file, .* give the model folder", capsys.readouterr().err)


def test_the_default_file_name_comes_from_the_folder_name(
    tmp_path, model_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model_folder), "--to", "torch-export"]) == 0
    assert (tmp_path / "model.pt2").is_file()
    assert capsys.readouterr().out.startswith(
        "model.pt2: cifar-resnet8, 3 classes, torch-export, fp32\n"
    )
    assert len(CLASSES) == 3


def test_a_network_for_inference_keeps_no_gradients():
    net, config = make_small_model()
    module = ExportableClassifier(net, config, bake_preprocessing=False)
    scores = module(torch.rand(2, *config.input))
    assert not any(output.requires_grad for output in scores)
    assert not any(parameter.requires_grad for parameter in module.parameters())
