"""Arguments that nobody should give end in one sentence, at once, and before anything is built."""

import io
import json
import os
import re
import shlex
import sys
import time

import pytest

from residua.cli.argument_hints import RECIPE_SPELLINGS
from residua.cli.evaluate import format_evaluation_summary
from residua.cli.main import COMMANDS, OTHER_SPELLINGS, main
from residua.cli.models import describe_depths_in_names
from residua.cli.options import add_recipe_options, apply_recipe_options
from residua.cli.parser import CommandParser
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipes import recipe
from residua.config.serialize import apply_override
from residua.errors import UsageError, unknown_name_error
from residua.net.create import create_model
from tests.cli_runner import run_cli
from tests.report.test_evaluation_page import make_evaluation


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    arguments = ["--model", "cifar-resnet8", "--steps", "2", "--precision", "fp32"]
    assert main(["train", "digits", *arguments, "--out", str(folder)]) == 0
    return folder


NINES = "9" * 5000
REFUSED = {
    "train digits --steps 99999999999999 --dry-run": (2, "99,999,999,999,999 steps is too long"),
    f"train digits --steps {NINES}": (2, "--steps: 999"),
    "train digits --epochs 1e300 --dry-run": (2, "1e+300 epochs is too long"),
    "train digits --epochs 999999 --set batch_size=1 --dry-run": (2, "steps is too long"),
    "train digits --epochs nan": (2, "--epochs: nan is not a number"),
    "train digits --epochs inf": (2, "--epochs: inf is not a number"),
    "train digits --save-every 99999999999999": (2, "is not an interval between checkpoints"),
    "train digits --model cifar-resnet99998": (2, "99,998 layers are too many: give at most"),
    "show cifar-resnet99998": (2, "99,998 layers are too many: give at most"),
    "signals cifar-resnet99998": (2, "99,998 layers are too many: give at most"),
    "study --depths 99998": (2, "99,998 layers are too many: give at most"),
    "convert x.pth --model cifar-resnet99998 --classes digits --mean 0 --std 1 --out y": (
        1,  # the file is read first
        "there is no file or folder x.pth",
    ),
    f"show cifar-resnet{NINES}": (2, "layers are too many: give at most"),
    f"show cifar-resnet20,width={NINES}": (2, "is invalid: give a whole number from 1 to 9,999"),
    f"show resnet50,units=1-1-1-{NINES}": (2, "is invalid: give a whole number from 1 to 9,999"),
    "show cifar-resnet20,width=9999": (2, "parameters is too large"),
    "train digits --model cifar-resnet20,width=9999": (2, "parameters is too large"),
    "signals cifar-resnet20,width=9999": (2, "parameters is too large"),
    "study --families resnet,width=9999 --depths 20": (2, "parameters is too large"),
    "train digits --model vlad,words=999999999999,samples=9999999999999": (
        2,
        "parameters is too large",
    ),
    "deepen {run} --stage 1 --units 999999999 --out x": (2, "layers is too deep"),
    "lesion {run} digits --draws 999999999999 --out x": (2, "draws must be at least 1 and at most"),
    "predict {run} a.png --top 999999999999": (2, "--top 999999999999 is too large"),
    "predict {run} a.png --batch 999999999999": (2, "--batch 999999999999 is too large"),
    f"train digits --set x={'[' * 100_000}": (2, "nested more than 64"),
    f"train digits --set batch_size={NINES}": (2, "more than 100 digits"),
    "train digits --set schedule.lr=NaN": (2, "which is not a finite number"),
    "train digits --set schedule.lr=1e999": (2, "which is not a finite number"),
    'train digits --set name="\\ud800"': (2, "half of a surrogate pair"),
    "train digits --set schedule=3": (2, "schedule is 3, not an object with a kind"),
    "train digits --set warmup=3": (2, "warmup is 3, not an object"),
    "train digits --set augment=[]": (2, "augment is [], not an object"),
    'train digits --set optimiser={"kind":[]}': (2, "optimiser is of kind [], not one of Sgd"),
    "train digits --set steps=1e5": (2, "steps is 100000.0, not int"),
    "train ~nosuchuser/x": (1, "there is no folder or table ~nosuchuser/x"),
    "data check ~nosuchuser/x": (1, "there is no folder or table ~nosuchuser/x"),
    "evaluate {run} ~nosuchuser/x": (1, "there is no folder or table ~nosuchuser/x"),
    "report ~nosuchuser/x": (1, "there is no folder ~nosuchuser/x"),
    "train /dev/zero": (1, "/dev/zero is a pipe or a device"),
    "train pipe": (1, "pipe is a pipe or a device"),
    "data check pipe": (1, "pipe is a pipe or a device"),
    "report pipe": (1, "pipe contains no run"),
    "report depht --pack": (2, "there is no folder depht"),
    "serve depht --port 1": (1, "depht does not exist"),  # before the port is tried
    "data chek": (2, "there is no action 'chek': did you mean 'check'?"),
    "data photos": (2, "there is no action 'photos': choose from check"),
    "study --families plane --out x": (2, "there is no family 'plane': did you mean 'plain'?"),
    "predict {run} pipe --engine torch": (1, "1 of 1 files could not be read"),
    "predict {run} /dev/zero --engine torch": (1, "1 of 1 files could not be read"),
    f"report {'x' * 300}": (1, "File name too long"),
    f"predict {'x' * 300} file": (1, "File name too long"),
    "report file/below": (1, "there is no folder file/below"),
}


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[:60])
def test_a_hostile_argument_ends_in_one_sentence_and_nothing_is_written(
    capsys, monkeypatch, run_folder, tmp_path, words
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "file").touch()
    code, sentence = REFUSED[words]
    start = time.perf_counter()
    found_code, _, line = run_cli(capsys, *words.replace("{run}", str(run_folder)).split(" "))
    assert time.perf_counter() - start < 10
    assert (found_code, sentence in line) == (code, True), line
    assert len(line) < 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_path_with_a_nul_byte_is_a_file_that_cannot_be_read(capsys, monkeypatch, run_folder):
    stream = io.TextIOWrapper(io.BytesIO(b"a\0b.png\n\n"))
    monkeypatch.setattr(sys, "stdin", stream)
    code, out, _ = run_cli(capsys, "predict", run_folder, "-", "--engine", "torch", "--json")
    assert code == 1
    assert json.loads(out) == {"path": "a\0b.png", "error": "cannot be read: embedded null byte"}


HINTS = [
    (["explain", "x"], "there is no command 'explain': write residua predict --explain"),
    (["train", "digits", "--wd", "0.1"], "there is no option '--wd': write --weight-decay 0.1"),
    (["train", "digits", "--wd", "--steps", "3"], "write --weight-decay 0.0005"),
    (["train", "digits", "--wd"], "write --weight-decay 0.0005"),
    (["train", "digits", "--wd", "little"], "write --weight-decay 0.0005"),
    (["train", "digits", "--learning-rate=1e-3"], "write --lr 1e-3"),
    (["find-lr", "digits", "--wd=1"], "there is no option '--wd': write --weight-decay 1"),
    (
        ["train", "digits", "--mixup=1"],
        "there is no option '--mixup': write --set augment.mixup=1",
    ),
    (["train", "digits", "--label-smoothing", ".1"], "write --set smoothing=0.1"),
    (["train", "digits", "--warmup", "500"], """--set 'warmup={"steps": 500}'"""),
    (["train", "digits", "--warmup", "0.1"], """--set 'warmup={"steps": 1000}'"""),
    (["train", "digits", "--scheduler", "one-cycle"], """'schedule={"kind": "OneCycle"}'"""),
    (["train", "digits", "--scheduler", "Linear_Decay"], """{"kind": "LinearDecay"}"""),
    (["train", "digits", "--shortcut", "B"], "as in --model cifar-resnet20,shortcut=B"),
    (
        ["train", "digits", "--model=cifar-preresnet20", "--join=shortcut-gate"],
        "as in --model cifar-preresnet20,join=shortcut-gate",
    ),
    (["train", "digits", "--join", "zip"], "as in --model cifar-resnet20,join=..."),
    (["show", "resnet50", "--join", "shortcut-gate"], "as in resnet50,join=shortcut-gate"),
    (
        ["predict", "x", "a.jpg", "--csv", "out.csv"],
        "--csv takes no value, as it prints to standard output: write --csv > out.csv",
    ),
    (["predict", "x", "a.jpg", "--csv=out.csv"], "write --csv > out.csv"),
    (["predict", "x", "a.jpg", "--json", "my out.json"], "write --json > 'my out.json'"),
    (["recipes", "--json", "he2015", "out"], "'out' is one argument too many"),
    (["predict", "x", "a.jpg", "--mirror", "/"], "write / before it, with the other paths"),
    (["train", "digits", "--freeze", "yes"], "--freeze takes no value: leave 'yes' out"),
    (["train", "digits", "--freeze=no"], "--freeze takes no value: leave the option out"),
    (["train", "digits", "--freeze", "digits"], "--freeze takes no value: leave 'digits' out"),
    (["train", "digits", "--resume", "runs/x"], "write --resume --out runs/x"),
    (["evaluate", "x", "y", "--calibrate", "yes"], "has no value 'yes': choose from on, off"),
    (["train", "digits", "--set", "lr=1"], "recipe has no field 'lr': did you mean schedule.lr?"),
    (
        ["train", "digits", "--set", "optimiser=adamw"],
        "; shorter: --optimiser adamw",
    ),
    (["train", "digits", "--set", "optimiser.kind=Muon"], "; shorter: --optimiser muon"),
    (["train", "digits", "--set", "momentum=1"], "did you mean optimiser.momentum?"),
    (
        ["evaluate", "x", "y", "--batch-size", "3"],
        "there is no option '--batch-size': choose from --",
    ),
    (["show", "cifar-resnet20", "-q"], "there is no option '-q': see residua show --help"),
    (
        ["train", "my", "photos"],
        "'photos' is one argument too many: write a path with a space as 'my photos'",
    ),
    (["data", "check", "my", "photos"], "'my photos'"),
    (["train", ""], "the data set is an empty"),
    (["report", ""], "folder is empty"),
    (["train", "digits", "--out="], "--out is empty"),
]


@pytest.mark.parametrize(("words", "hint"), HINTS)
def test_a_mistake_that_people_make_gets_the_right_spelling(
    capsys, monkeypatch, tmp_path, words, hint
):
    monkeypatch.chdir(tmp_path)
    code, _, line = run_cli(capsys, *words)
    assert (code, hint in line) == (2, True), line


def test_the_order_of_model_and_images_is_explained(capsys, run_folder, tmp_path):
    code, _, line = run_cli(capsys, "predict", tmp_path, run_folder)
    assert (code, f"as in residua predict {run_folder} {tmp_path}" in line) == (2, True), line
    code, _, line = run_cli(capsys, "predict", run_folder, "https://example.org/a.jpg")
    assert (code, "download the image" in line) == (2, True), line
    code, _, line = run_cli(capsys, "predict", run_folder, "")
    assert (code, "one of the images is an empty" in line) == (2, True), line


@pytest.mark.parametrize("option", RECIPE_SPELLINGS)
@pytest.mark.parametrize("value", ["", "0.25", "linear-decay"])
def test_the_suggested_options_change_the_recipe(option, value):
    base = recipe("he2015")
    suggested = shlex.split(RECIPE_SPELLINGS[option].with_value(value))
    parser = CommandParser(prog="residua x")
    add_recipe_options(parser, default="the base")
    parsed = parser.parse_args(suggested)
    assert apply_recipe_options(parsed, base) != base


def test_every_value_without_a_kind_is_answered_with_one_that_works():
    base = recipe("he2015")
    for setting in ("optimiser=muon", "optimiser=Sgd", "schedule=onecycle", "schedule=5"):
        with pytest.raises(UsageError) as refused:
            apply_override(base, setting)
        shown = re.search(r"write (\S+='.*?')", str(refused.value))[1].replace("'", "")
        apply_override(base, shown)
        if "5" not in setting:
            assert setting.lower().partition("=")[2] in shown.lower()


@pytest.mark.parametrize(
    ("name", "choices", "suggestion"),
    [
        ("--batch-size", ["--size", "--steps", "--set"], None),
        ("--modle", ["--model", "--mode-of-work"], "--model"),
        ("--calibrat", ["--mirror", "--calibrate"], "--calibrate"),
        ("trian", COMMANDS, "train"),
        ("explain", COMMANDS, None),
        ("xylophone", COMMANDS, None),
        ("resnet", COMMANDS, None),
        ("sqtr", ["none", "unit", "sqrt"], "sqrt"),
    ],
)
def test_only_what_is_alike_is_suggested(name, choices, suggestion):
    sentence = str(unknown_name_error("name", name, choices))
    assert sentence.endswith(f"did you mean {suggestion!r}?") == (suggestion is not None)
    assert ("choose from" in sentence) == (suggestion is None)


def test_other_names_of_commands_are_those_of_commands():
    for word, command in OTHER_SPELLINGS.items():
        assert word not in COMMANDS
        assert command.split()[0] in COMMANDS


def test_the_layers_of_a_wide_network_are_explained(capsys):
    convolutions = [
        module
        for module in create_model("cifar-wrn16-8").modules()
        if type(module).__name__ == "Conv2d"
    ]
    assert len(convolutions) == 16  # as the name says: with projections, without the last layer
    assert plan(network("cifar-wrn16-8")).depth == 14
    _, out, _ = run_cli(capsys, "models", "cifar-wrn*")
    assert "two higher" in out
    assert "projections" in run_cli(capsys, "show", "cifar-wrn16-8")[1]
    assert describe_depths_in_names({"cifar-resnet20": plan(network("cifar-resnet20"))}) == ""


def test_the_stride_of_the_multiply_adds_is_said(capsys):
    _, out, _ = run_cli(capsys, "show", "resnet50")
    assert "stride=3x3" in out
    assert "resnet50,stride=3x3" in run_cli(capsys, "models", "resnet*")[1]
    for name in ("resnet18", "resnet50,stride=3x3", "cifar-resnet20"):
        assert "stride=3x3)" not in run_cli(capsys, "show", name)[1]


def test_the_top_5_error_is_printed_from_six_classes_on():
    for count in (5, 6):
        evaluation = make_evaluation(tuple("abcdef"[:count]))
        assert ("top-5" in format_evaluation_summary(evaluation, None)) == (count == 6)
