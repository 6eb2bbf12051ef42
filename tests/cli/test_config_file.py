"""`--config`: YAML counts as the command line does, and no file can exhaust the machine."""

import json
import os
import time

import pytest
import yaml

from tests.cli_runner import run_cli


@pytest.fixture
def run_config(capsys, tmp_path):
    """Runs `residua train --config` with this text or these bytes; prints the options."""

    def run(content, *arguments):
        path = tmp_path / "c.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        code, out, err = run_cli(capsys, "train", *arguments, "--config", path, "--print_config")
        return code, yaml.safe_load(out) if code == 0 else out, err.replace(str(path), "c.yaml")

    return run


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("data: digits\nseed: 010", {"data": "digits", "seed": 10}),  # not eight
        ("data: no", {"data": "no"}),  # not false
        ("data: 5", {"data": "5"}),
        ("data: 2026-01-02", {"data": "2026-01-02"}),
        ("data: 1:30", {"data": "1:30"}),  # not ninety
        ("data: 'null'\nmodel: ~", {"data": "null", "model": None}),
        ("data: digits\nset: batch_size=64", {"set": ["batch_size=64"]}),
        ("data: digits\nset: [batch_size=64, a=b]", {"set": ["batch_size=64", "a=b"]}),
        ("data: digits\nsave-every: 5m\nfreeze: True", {"save_every": "5m", "freeze": True}),
        (
            "data: caf\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}",
            {"data": "caf\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}"},
        ),
        ('{"data": "digits", "epochs": 1e-3}', {"epochs": 0.001}),
    ],
)
def test_a_value_counts_as_it_is_written(run_config, text, options):
    code, printed, err = run_config(text)
    assert (code, err) == (0, "")
    assert {name: printed[name] for name in options} == options


def test_utf_16_is_read_as_windows_writes_it(run_config):
    assert run_config("data: digits\nseed: 4".encode("utf-16"))[1]["seed"] == 4


def test_the_later_of_file_and_option_counts(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("data: digits\nseed: 1\nset: [a=1]")
    for arguments, seed, settings in (
        (["--config", tmp_path / "c.yaml", "--seed", 2, "--set", "b=2"], 2, ["a=1", "b=2"]),
        (["--seed", 2, "--set", "b=2", "--config", tmp_path / "c.yaml"], 1, ["a=1"]),
    ):
        _, out, _ = run_cli(capsys, "train", "--print_config", *arguments)
        printed = yaml.safe_load(out)
        assert (printed["seed"], printed["set"]) == (seed, settings)
        assert printed["precision"] == "auto"


REFUSED = {
    "epochs: .inf": "residua train: --epochs: .inf is not a number",
    "epochs: {a: 1}": "epochs in c.yaml contains a mapping: write a single value",
    "seed: 1e300": "residua train: --seed: 1e300 is not a whole number",
    "seed: yes": "residua train: --seed: yes is not a whole number",
    "data: [a, b]": "data in c.yaml is a list of 2 values: write a single value",
    "set: [[a]]": "set in c.yaml contains a list: write a single value",
    "set: {a: 1}": "set in c.yaml contains a mapping",
    "freeze: 1": "freeze in c.yaml is a flag: write true or false",
    "freeze: [true]": "freeze in c.yaml is a flag: write true or false",
    "modle: x": "c.yaml has no option 'modle': did you mean 'model'?",
    "config: c.yaml": "c.yaml has no option 'config': choose from data, model",
    "data.x: 1": "c.yaml has no option 'data.x'",
    "seed: 1\nseed: 2": "c.yaml sets seed twice: remove one of the two settings",
    "- data: x": "c.yaml has no options: write one OPTION: VALUE on each line",
    "digits": "c.yaml has no options: write one OPTION: VALUE on each line",
    "[" * 100_000: "c.yaml has more than 10,000 values, or is nested more than 8 levels",
    "set: [" + "a, " * 100_000 + "a]": "c.yaml has more than 10,000 values",
    "data: &a x\nmodel: *a": "c.yaml has an anchor or alias (& or *): write each value out",
    "data: !!python/object/apply:os.system [ls]": "data in c.yaml is a list of 1 values",
    "data: !!python/name:os.system": "data in c.yaml has the YAML tag !!python/name:os.system",
    'data: "a\\0b"': "data in c.yaml has a NUL byte, which no option can have: remove it",
    "data: a\0b": "c.yaml is not valid YAML",
    "data: [\n": "c.yaml is not valid YAML in line 2: did not find expected node content",
    "a: b\n  c: d": "c.yaml is not valid YAML in line 2: mapping values are not allowed",
    "a: 1\n---\nb: 1": "c.yaml is not valid YAML",
    "": "DATA is missing: see residua train --help",
    "# nothing": "DATA is missing: see residua train --help",
    "? [a]\n: 1": "c.yaml has a list as an option's name in line 1: write one OPTION: VALUE on",
    "seed: 1\n? {a: b}\n: 1": "c.yaml has a mapping as an option's name in line 2: write one",
    "{[a, b]: 1}": "c.yaml has a list as an option's name in line 1",
    "? !!set {a}\n: 1": "c.yaml has a mapping as an option's name in line 1",
    "<<: {seed: 1}": "c.yaml has no option '<<'",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_is_no_option_is_refused_in_one_sentence(run_config, text):
    start = time.perf_counter()
    code, out, sentence = run_config(text)
    assert time.perf_counter() - start < 2
    assert (code, out) == (2, "")
    assert REFUSED[text] in sentence


def test_a_billion_laughs_end_at_once(run_config):
    lines = ["a: &a [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(9))]
    start = time.perf_counter()
    code, _, sentence = run_config("\n".join(lines))
    assert (code, sentence) == (
        2,
        "residua: c.yaml has an anchor or alias (& or *): write each value out",
    )
    assert time.perf_counter() - start < 1


def test_only_a_regular_file_of_text_is_read(capsys, run_config, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_text("x" * 2_000_000)
    for path, sentence in (
        (tmp_path, "is a folder: give a file"),
        (tmp_path / "pipe", "is a pipe or a device: give a regular file"),
        ("/dev/zero", "/dev/zero is a pipe or a device: give a regular file"),
        (tmp_path / "large.yaml", "is too large: it has more than 1,048,576 bytes"),
        (
            "none.yaml",
            "none.yaml is neither a file nor YAML: check the path, or write OPTION: VALUE",
        ),
        ("x" * 300, "cannot be read: File name too long"),
        ("a: [[[", "the text of --config is not valid YAML"),
    ):
        code, _, error = run_cli(capsys, "train", "digits", "--config", path)
        assert (code, sentence in error) == (2, True), error
    assert run_config(b"data: \xff\xfe")[2] == "residua: c.yaml is not UTF-8 text: give a YAML file"


def test_text_instead_of_a_file_is_read(capsys):
    code, out, _ = run_cli(capsys, "show", "cifar-resnet8", "--config", "{json: true}")
    assert (code, json.loads(out)["depth"]) == (0, 8)
