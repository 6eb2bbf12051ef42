"""The corpus of inputs that once failed, and fixed cases of each kind."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.case import Case, make_content, pack_case, read_case, unpack_case
from tests.fuzz.generators import GENERATORS
from tests.fuzz.oracle import Outcome, find_formulas, find_sentence_problem
from tests.fuzz.properties import PROPERTIES, can_lose_an_image, compare_splits
from tests.fuzz.reader import Photo, find_role, read_folder, read_table
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
    ("text", "is_formula"),
    [
        ("path,class\na,=1+1", True),
        ('a,"-x"', True),
        ('a,"\tx"', True),
        ("a,'=1+1", False),
        ("a=b,a-b", False),
        ("-1.5,+2,-inf", False),
    ],
)
def test_the_oracle_knows_a_formula(text, is_formula):
    assert bool(list(find_formulas(text, "a.csv"))) == is_formula


def test_the_suite_complains_of_a_file_that_has_neither_a_line_nor_a_count(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(make_content({"image": 1}, None))
    for name in ("notes.txt", ".hidden", "Thumbs.db"):
        (tmp_path / "in" / name).touch()
    line = '{"path": "in/a.png"}\n'

    def complain(out, err):
        arguments = {"command": 0, "path": "in"}
        return list(PROPERTIES["passed_over"](tmp_path, [Outcome(0, out, err, 0)], arguments, None))

    assert not complain(line, "residua: 1 file passed over: 1 .txt\n")
    assert complain(line, "")
    assert complain(line, "residua: 2 files passed over: 2 .txt\n")
    assert complain("", "residua: 2 files passed over: 1 .png, 1 .txt\n")
    assert complain(line.replace("a.png", "b.png"), "residua: 1 file passed over: 1 .txt\n")


@pytest.mark.parametrize(
    ("roles", "splits", "is_right"),
    [
        ([""] * 9, (5, 2, 2), True),
        ([""] * 9, (7, 0, 2), False),
        ([""] * 9, (7, 2, 0), False),
        ([""] * 9, (4, 2, 2), False),
        (["train"] * 6 + ["test"] * 3, (5, 1, 3), True),
        (["train"] * 6 + ["test"] * 3, (6, 1, 2), False),
        (["train"] * 6 + ["test"] * 3, (6, 0, 3), False),
        (["train"] * 2, (1, 0, 1), True),
        (["train"] * 6 + ["dev"] * 3, (5, 1, 3), True),
        (["train"] * 6 + ["dev"] * 2 + ["test"], (5, 3, 1), False),
    ],
)
def test_the_suite_knows_how_many_images_each_split_must_have(roles, splits, is_right):
    photos = [Photo(str(i), "cat", role, True) for i, role in enumerate(roles)]
    found = dict(zip(("train", "dev", "test"), splits, strict=True))
    assert bool(list(compare_splits(photos, found, Counter(roles)))) != is_right


@pytest.mark.parametrize(
    ("photos", "can"),
    [
        ([("1", "cat", "train"), ("2", "cat", "train")], True),
        ([("1", "cat", "train"), ("2", "dog", "train")], False),
        ([("1", "cat", "train"), ("2", "cat", "test")], False),
        ([("1", "cat", "train"), ("1", "cat", "train")], False),
        ([("1", "cat", "train"), ("2", "cat", "train"), ("2", "dog", "train")], False),
        ([], False),
    ],
)
def test_the_suite_knows_whether_a_training_image_can_be_held_out(photos, can):
    assert can_lose_an_image([Photo(*photo, True) for photo in photos]) == can


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
        (tmp_path / "run" / name).write_text('{"a": [1, {"b": 2}], "network": {"width": 3}}')
    cache = tmp_path / "cache" / "residua" / "images" / "a"
    cache.mkdir(parents=True)
    (cache / "index.json").write_text('{"index": {"labels": [0], "names": [""], "counts": [1]}}')
    for kind, make_case in GENERATORS.items():
        first, second, other = [make_case(random.Random(s), tmp_path) for s in (1, 1, 2)]
        assert first == second != other, kind
