"""The corpus of inputs that once failed, and fixed cases of each kind."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.case import Case, make_content, pack_case, read_case, unpack_case
from tests.fuzz.generators import GENERATORS
from tests.fuzz.oracle import find_sentence_problem
from tests.fuzz.reader import find_role, read_folder, read_table
from tests.fuzz.run import CORPUS, FIXED_CASES

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 900  # on a machine that is busy with other things; usually a minute


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Counts by kind and failures; a process of its own, because it forks."""
    file = tmp_path_factory.mktemp("fuzz") / "results.json"
    command = [sys.executable, "-m", "tests.fuzz.run", "--fixed", "--json", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS
    )
    assert file.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(file.read_text())


def describe_failures(failures):
    return "\n".join(f"{f['kind']}: {f['origin']}: {f['name']}: {f['text']}" for f in failures)


def test_no_input_of_the_corpus_fails_again(results):
    failures = [f for f in results["failures"] if f["origin"].startswith("corpus")]
    assert not failures, describe_failures(failures)
    assert results["cases"]["corpus"] == len(CORPUS.read_text().splitlines())


@pytest.mark.parametrize("kind", FIXED_CASES)
def test_fixed_cases_end_in_order_and_are_read_as_an_independent_reader_reads_them(results, kind):
    failures = [f for f in results["failures"] if f["kind"] == kind and "seed" in f["origin"]]
    assert not failures, describe_failures(failures)
    assert results["cases"][kind] == FIXED_CASES[kind]


def test_a_case_survives_its_packing():
    case = Case(
        "table", "é", {"in/\udcff": {"base64": "AA=="}}, [["show", "\ud800"]], {"refused": [0]}
    )
    assert unpack_case(pack_case(case)) == case == read_case(case.to_line())


@pytest.mark.parametrize(
    ("line", "is_sentence"),
    [
        ("residua: there is no folder a: check the path", True),
        ("residua train: there is no option '--lrr': did you mean '--lr'?", True),
        ("residua: KeyError: 'a'", False),
        ("residua: [Errno 2] No such file", False),
        ("residua: it failed.", False),
        ("Killed", False),
    ],
)
def test_the_oracle_knows_a_sentence(line, is_sentence):
    assert (find_sentence_problem(line) is None) == is_sentence


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Training set", "train"),
        ("seg_test", "test"),
        ("TestData", "test"),
        ("val_images", "dev"),
        ("contest", ""),
        ("holdout", "other"),
        ("train or test", "doubt"),
    ],
)
def test_the_reader_knows_what_a_name_means(name, role):
    assert find_role(name) == role


def test_the_reader_tells_honest_from_doubtful_data(tmp_path):
    image = make_content({"image": 1}, None)
    for place in ("a/Train set/x", "a/Train set/y", "a/test/x", "b/train/x", "b/holdout/x"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").write_bytes(image)
    honest, doubtful = [read_folder(tmp_path / name) for name in "ab"]
    assert not honest.is_doubtful
    assert doubtful.is_doubtful
    assert sorted((p.class_name, p.role) for p in honest.photos) == [
        ("x", "test"),
        ("x", "train"),
        ("y", "train"),
    ]
    (tmp_path / "t.csv").write_text(
        "path,label,split\na/test/x/1.png, x ,train\na/test/x/1.png,x,test\n"
    )
    (photo,) = read_table(tmp_path / "t.csv").photos
    assert (photo.class_name, photo.role, photo.is_image) == ("x", "test", True)


def test_generators_are_pure_functions_of_their_seed(tmp_path):
    (tmp_path / "run" / "last").mkdir(parents=True)
    for name in ("run.json", "metrics.jsonl", "last/config.json"):
        (tmp_path / "run" / name).write_text('{"a": [1, {"b": 2}]}')
    cache = tmp_path / "cache" / "residua" / "images" / "a"
    cache.mkdir(parents=True)
    (cache / "index.json").write_text('{"index": {"labels": [0], "names": [""], "counts": [1]}}')
    for kind, make_case in GENERATORS.items():
        first, second, other = [make_case(random.Random(s), tmp_path) for s in (1, 1, 2)]
        assert first == second != other, kind
