"""Commands print to any stream, and write files in UTF-8, whatever the locale is."""

import csv
import io
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.model import ModelConfig
from residua.file_names import decode_file_name, encode_utf8
from residua.net.model_folder import save_pretrained
from tests.cli_runner import require_no_finding
from tests.report.fake_records import write_study_records
from tests.test_design import PACKAGE

CLASSES = ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{GRINNING FACE}", "=cmd")
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve noisy images in each of three classes, whose names not every stream can print."""
    folder = tmp_path_factory.mktemp("streams") / "photos"
    generator = torch.Generator().manual_seed(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}-{name}.png")
    return folder


@pytest.fixture(scope="module")
def model_folder(photos):
    net = residua.create_model("cifar-resnet8", num_classes=3, input=(3, 8, 8))
    config = ModelConfig(
        network=net.plan.network, classes=tuple(sorted(CLASSES)), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    save_pretrained(net, config, photos.parent / "model")
    return photos.parent / "model"


@pytest.fixture
def run_in_ascii(monkeypatch):
    """Runs a command whose standard streams can print ASCII alone, and fail at other text."""

    def run(*arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code = main([*map(str, arguments)])
        out, err = (stream.detach().getvalue().decode("ascii") for stream in streams)
        require_no_finding(err)
        return code, out

    return run


def test_every_command_prints_names_of_classes_and_files_to_an_ascii_stream(
    run_in_ascii, photos, model_folder, tmp_path
):
    code, out = run_in_ascii(
        "data", "check", photos, "--out", tmp_path, "--fix", tmp_path / "c.csv"
    )
    assert (code, "36 usable images in 3 classes" in out) == (0, True)
    names = {row["label"] for row in read_csv(tmp_path / "c.csv")}
    assert names == {"'=cmd", *CLASSES[:2]}
    assert CLASSES[1] in (tmp_path / "check.html").read_text(encoding="utf-8")
    code, out = run_in_ascii("evaluate", model_folder, photos, "--out", tmp_path / "e")
    assert (code, "Most frequent confusion: " in out) == (0, True)
    assert CLASSES[1] in (tmp_path / "e" / "confusion.csv").read_text(encoding="utf-8")
    image = photos / CLASSES[0] / f"0-{CLASSES[0]}.png"
    for arguments in ([], ["--csv"], ["--json"]):
        code, out = run_in_ascii("predict", model_folder, image, "--engine", "torch", *arguments)
        escaped = r"\u00e9" if arguments == ["--json"] else r"\xe9"
        assert (code, f"0-caf{escaped}.png" in out, "U0001f600" in out) == (
            0,
            True,
            arguments != ["--json"],
        )


def read_csv(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_neither_the_locale_nor_the_backend_of_matplotlib_matters(photos, tmp_path):
    write_study_records(tmp_path / "s", {"cifar-resnet20": [(0.1, 0.2)]})
    out = ["--out", "o", "--fix", "c.csv"]
    commands = [["data", "check", decode_file_name(photos), *out], ["data", "check", "c.csv", *out]]
    code = (
        "from residua.cli.main import main; "
        f"print([main(words) for words in {[*commands, ['report', 's']]}])"
    )
    environment = os.environ | NO_UTF8 | {"MPLBACKEND": "nonsense", "XDG_CACHE_HOME": "cache"}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, cwd=tmp_path
    )
    require_no_finding(done.stderr.decode())
    assert done.stdout.count(b"36 usable images in 3 classes, no problems") == 2, done.stdout
    assert done.stdout.endswith(b"\n[0, 0, 0]\n")
    assert b"caf\\xe9" in done.stderr
    assert {os.path.basename(row["path"]) for row in read_csv(tmp_path / "c.csv")} == {
        f"{i}-{name}.png" for name in CLASSES for i in range(12)
    }


def test_a_file_name_that_is_no_utf_8_is_written_as_escapes():
    name = decode_file_name(os.fsdecode(b"caf\xc3\xa9-\xff"))
    assert encode_utf8(f"<p>{name}") == b"<p>caf\xc3\xa9-\\xff"


@pytest.mark.parametrize(
    ("streams", "code", "text"),
    [
        ("2>&-", 0, "cifar-resnet8"),
        ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 1, "No space left on device"),
        ("| head -n 0", 0, ""),
    ],
)
def test_closed_full_and_broken_streams_do_no_harm(tmp_path, streams, code, text):
    command = f"{sys.executable} -m residua show cifar-resnet8 --svg net.svg {streams}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code
    assert text in done.stdout + done.stderr
    require_no_finding(done.stderr)
    assert "Exception ignored" not in done.stderr
    assert (tmp_path / "net.svg").read_text(encoding="utf-8").endswith("</svg>\n")


def test_a_closed_standard_input_is_a_sentence(model_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(model_folder), "-", "--engine", "torch"]) == 1
    assert capsys.readouterr().err == (
        "residua: standard input is closed: give image files, or pipe paths into the command\n"
    )


@pytest.mark.parametrize(("content", "option"), [(b"x" * 200_000, []), (b"\0" * 2_000_000, ["-0"])])
def test_an_endless_standard_input_is_not_read_to_its_end(
    model_folder, monkeypatch, capsys, content, option
):
    class EndlessInput(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = (content * 2)[: len(buffer)]
            return len(buffer)

    stream = io.TextIOWrapper(io.BufferedReader(EndlessInput()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert main(["predict", str(model_folder), "-", "--engine", "torch", *option]) == 1
    assert "standard input is not a list of paths: end each path with" in capsys.readouterr().err
