"""Every block of code in docs/ runs, in order, as a reader would run it; what the README says
stands in a record.
"""

import ast
import importlib
import json
import re
import runpy
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest

import residua
from residua.cli.main import main, make_parser
from residua.config.run import parse_run
from residua.record import RunRecord
from residua.study_records import PACKED_RUNS, read_packed_runs
from tests.browser import assert_page_fits, needs_chromium

ROOT = Path(__file__).parent.parent
TROUBLESHOOTING_PAGE = ROOT / "docs" / "troubleshooting.md"
HOW_TO_PAGES = sorted((ROOT / "docs/howto").glob("*.md"))
OTHER_PAGES = {  # with commands that take long or need photographs, or have tests of their own
    ROOT / "docs" / name
    for name in (
        *("commands.md", "comparison.md", "design.md", "index.md", "results.md"),
        *("imagenet.md", "scaling.md", "start-papers.md", "start-photographs.md"),
    )
}
DOC_PAGES = [
    *sorted(set((ROOT / "docs").glob("*.md")) - OTHER_PAGES - {TROUBLESHOOTING_PAGE}),
    *(
        page
        for page in HOW_TO_PAGES
        if "```sh" in page.read_text() or "```python" in page.read_text()
    ),
]
TRAINING_FRAMEWORKS = ("lightning", "transformers")  # no dependencies of residua


def find_code_blocks(page):
    return re.findall(r"```(python|sh|text)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.usefixtures("studies_in_this_process")
@pytest.mark.parametrize("page", DOC_PAGES, ids=lambda page: page.name)
def test_every_code_block_in_the_docs_runs_and_prints_the_output_shown(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, ""
    code_blocks = find_code_blocks(page)
    assert code_blocks
    for language, code in code_blocks:
        if find_framework(code):  # run by the test below
            continue
        if language == "text":  # what the block before it printed
            assert printed == code
            continue
        capsys.readouterr()
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        else:
            for line in code.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "residua"
                assert main(arguments) == 0, line
        printed = capsys.readouterr().out


def find_framework(code):
    """The training framework that a block of code imports; None for any other block."""
    frameworks = "|".join(TRAINING_FRAMEWORKS)
    imported = re.search(rf"^(?:import|from) ({frameworks})\b", code, re.MULTILINE)
    return imported and imported[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("studies_in_this_process")
@pytest.mark.parametrize("framework", TRAINING_FRAMEWORKS)
def test_the_example_for_another_training_framework_runs(framework, tmp_path, monkeypatch):
    # lightning imports torchvision, which some builds of torch can import in this way only
    importlib.import_module("tests.third_party")
    pytest.importorskip(framework)
    monkeypatch.chdir(tmp_path)
    code_blocks = [code for _, code in find_code_blocks(ROOT / "docs/python.md")]
    examples = [code for code in code_blocks if find_framework(code) == framework]
    assert len(examples) == 1
    names = {}
    for code in [code for code in code_blocks if not find_framework(code)] + examples:
        exec(compile(code, "python.md", "exec"), names)
    trainer = names["trainer"]
    progress = trainer if framework == "lightning" else trainer.state
    assert progress.global_step == 2


def iterate_messages(module):
    """Every text in a module's source, with "..." for each value that is filled in."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "..." for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_each_sentence_of_the_troubleshooting_page_is_one_that_residua_prints():
    messages = [
        message
        for module in sorted((ROOT / "residua").rglob("*.py"))
        for message in iterate_messages(module)
    ]
    sentences = re.findall(r"\*\*`(.*?)`\*\*", TROUBLESHOOTING_PAGE.read_text())
    assert len(sentences) >= 20
    for sentence in sentences:
        fragments = [text for text in sentence.split("...") if len(text.strip()) > 3]
        pattern = ".*".join(map(re.escape, fragments))
        assert any(re.search(pattern, message, re.DOTALL) for message in messages), sentence


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted(OTHER_PAGES), *HOW_TO_PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_a_page_mentions_only_existing_files_and_options(page):
    text = page.read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / path).exists(), path
    for line in re.findall(r"^residua (.*)$", text, re.MULTILINE):
        arguments = shlex.split(line, comments=True)
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in format_command_help(arguments[0]), f"residua {line}"


@cache
def format_command_help(command):
    return make_parser(command).format_help()


def test_the_python_code_in_the_readme_runs(capsys):
    names = {}
    for language, code in find_code_blocks(ROOT / "README.md"):
        if language == "python":
            exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out == "0\n19421274 2829238912\n"


def test_the_readme_is_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_numbers_in_results_md_match_the_records():
    text = " ".join((ROOT / "docs" / "results.md").read_text().split())
    study = json.loads((ROOT / "experiments/digits-depth/results.json").read_text())
    assert " ".join(study["verdict"].split()) in text
    for page in (ROOT / "benchmarks").glob("training_*.md"):
        [ratio] = re.findall(r"ratio to the better usual loop: ([\d.]+);", page.read_text())
        assert f"{ratio}x" in text
    memory = (ROOT / "benchmarks/memory_epyc-2-cores_202611.md").read_text()
    [(share, time)] = re.findall(
        r"\| 1,202 \| sqrt \|.*\| 0(\.\d+) \| [\d.]+ s \| ([\d.]+) \|", memory
    )
    assert f"{100 * float(share):.1f} % of the memory in {time}x the time" in text
    for result in read_packed_results("fast").values():
        assert f"{100 * result['test_error']:.2f} %" in text
    for record in [
        *(ROOT / "experiments").glob("cifar-*/run.json"),
        *(ROOT / "experiments").glob("vlad-*/run.json"),
    ]:
        result = json.loads(record.read_text())["result"]
        assert f"{100 * result['test_error']:.2f} %" in text


def read_packed_results(folder):
    """The results of the runs that are packed in a folder of experiments/, by name."""
    records = read_packed_runs(ROOT / "experiments" / folder / PACKED_RUNS)
    assert records
    return {record.name: record.read_result() for record in records}


def test_the_numbers_in_claims_md_match_the_records():
    text = " ".join((ROOT / "docs/claims.md").read_text().split())

    def read_errors(folder, *cells, kind="train_error"):
        found = json.loads((ROOT / "experiments" / folder / "results.json").read_text())["cells"]
        by_place = {(cell["arm"], cell["depth"]): f"{100 * cell[kind]:.1f} %" for cell in found}
        return [by_place[cell] for cell in cells]

    plain = [("plain", depth) for depth in (20, 56, 110)]
    for kind in ("train_error", "test_error"):
        first, second, third = read_errors("digits-depth", *plain, kind=kind)
        assert (
            f"{first}, {second} and {third} {'training' if kind == 'train_error' else 'test'} error"
            in text
        )
    for family in ("resnet", "preresnet"):
        few, many = read_errors("digits-thousand", (family, 110), (family, 1202))
        assert re.search(rf"from {few}(?: training error at 110 layers)? to {many}", text)
    for optimiser in ("SGD", "momentum", "Nesterov", "AdamW", "RMSprop"):
        arms = [
            (f"{net} {optimiser}", depth) for net in ("plain", "residual") for depth in (20, 56)
        ]
        assert " | ".join([f"| {optimiser}", *read_errors("digits-optimisers", *arms)]) in text
    for run in ("resnet20", "deeper-trained-4000", "resnet20-4000-more"):
        result = read_packed_results("cifar-deepen")[run]
        assert f"{100 * result['dev_error']:.2f} %" in text
    for result in read_packed_results("digits-surgery").values():
        assert f"{100 * result['test_error']:.1f} %" in text


def test_the_numbers_in_thousand_layers_md_match_the_records():
    text = (ROOT / "docs/thousand-layers.md").read_text()
    cells = json.loads((ROOT / "experiments/thousand-layers/results.json").read_text())["cells"]
    rows = re.findall(
        r"^\| ([^|]+) \| ([\d,]+) \| (\d) \| (\w+) \| ([\d.]+)[^|]* \| ([\d.]+)[^|]* \|$",
        text,
        re.MULTILINE,
    )
    essay_rows = {(row[0], int(row[1].replace(",", ""))): row[2:] for row in rows}
    for cell in cells:
        step = "none" if cell["set_out"] == 0 else f"{cell['set_out_step']:.0f}"
        errors = [f"{100 * cell[kind]:.1f}" for kind in ("train_error_reestimated", "test_error")]
        assert essay_rows.pop((cell["arm"], cell["depth"])) == (str(cell["seeds"]), step, *errors)
        if cell["depth"] == 1202:
            assert f"{errors[0]} %" in text
    assert not essay_rows
    train = {(cell["arm"], cell["depth"]): cell["train_error_reestimated"] for cell in cells}
    series = [f"{100 * train['original', depth]:.1f} %" for depth in (110, 302, 602, 1202)]
    assert "original: {}, {}, {} and {} with 110, 302, 602 and 1,202 layers".format(*series) in text
    bottlenecks = ("full pre-activation bottleneck", "original bottleneck")
    at_1001 = [f"{100 * train[arm, 1001]:.1f} %" for arm in bottlenecks]
    assert f"{at_1001[0]} against {at_1001[1]} at 1,001 layers of bottlenecks" in text
    relu_only = [f"{100 * train['ReLU-only pre-activation', d]:.1f} %" for d in (602, 1202)]
    assert f"ends at {relu_only[0]} with 602 layers and {relu_only[1]} with 1,202" in text
    walks = json.loads((ROOT / "experiments/signals/result.json").read_text())["cifar-resnet1202"]
    for stage in (1, 2, 3):
        first, last = (
            walks[f"stage{stage}"]["clip_fraction"][:3],
            walks[f"stage{stage}"]["survival"][-1],
        )
        zeroed = [", ".join(f"{unit[what]:.3f}" for unit in first) for what in ("measured", "null")]
        assert (
            f"| {stage} | {zeroed[0]} | {zeroed[1]} | {last['measured']:.3f} | {last['null']:.3f} |"
            in text
        )
    trained = json.loads((ROOT / "experiments/thousand-layers/signals.json").read_text())
    original_units, zero_init_units = (
        trained["cifar-resnet1202-seed0"]["units"],
        trained["cifar-resnet1202,start=identity-seed0"]["units"],
    )
    stage3_units = [unit for unit in original_units if unit[0].startswith("stage3")]
    words = " ".join(text.split())
    assert (
        f"zeroes {100 * sum(unit[1] for unit in stage3_units) / len(stage3_units):.0f} % of all "
        f"sums, {100 * stage3_units[-1][1]:.0f} % in its" in words
    )
    assert f"{10_000 * stage3_units[-1][2]:.0f} paths in 10,000" in words
    assert f"shrunk to {100 * original_units[0][3] / original_units[-1][3]:.1f} %" in words
    surviving_paths = [
        100 * next(unit[2] for unit in zero_init_units if unit[0] == f"stage{stage}.unit200")
        for stage in (1, 2, 3)
    ]
    assert "{:.0f} %, {:.0f} % and {:.0f} % of the paths".format(*surviving_paths) in words


def test_the_figures_of_the_essay_are_those_of_the_records():
    script = runpy.run_path(str(ROOT / "experiments/essay_figures.py"))
    made = script["make_figures"](script["read_study_summary"](script["STUDY"]))
    assert {path.name for path in script["FIGURES"].iterdir()} == set(made)
    for name, content in made.items():
        kept = (script["FIGURES"] / name).read_text()
        for part in (r"<title>.*", r"const data = .*", r"<text.*"):  # what depends on no version
            assert re.findall(part, kept) == re.findall(part, content), (
                f"docs/figures/{name} is not that of the records: run experiments/essay_figures.py"
            )


@needs_chromium
def test_the_slider_of_the_essay_shows_the_numbers_of_the_chosen_depth(tmp_path):
    cells = json.loads((ROOT / "experiments/thousand-layers/results.json").read_text())["cells"]
    page = (ROOT / "docs/figures/thousand-layers.html").read_text()
    shown = assert_page_fits(
        page,
        390,
        tmp_path,
        "const slider = page.getElementById('depth'); slider.value = 1;"
        "slider.dispatchEvent(new view.Event('input'));",
        "page.querySelector('.final tbody').innerText.replace(/\\s+/g, ' ')",
    )
    [original] = [c for c in cells if (c["arm"], c["depth"]) == ("original", 110)]
    errors = (original["train_error_reestimated"], original["test_error"])
    assert "Original {:.1f} {:.1f} 40 3".format(*(100 * error for error in errors)) in shown


def test_records_in_the_repository_can_be_read():
    from residua.report.runs import read_study_runs
    from residua.report.tables import average_runs_over_seeds

    found = average_runs_over_seeds(read_study_runs(ROOT / "experiments/digits-depth"))
    assert [(cell.family, cell.depth) for cell in found if cell.test_error > 0.5] == [
        ("plain", 56),
        ("plain", 110),
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").rglob("run.json")), ids=lambda path: path.parent.name
)
def test_a_record_in_the_repository_is_accepted_for_its_own_run(path, tmp_path):
    """Also one that an earlier version wrote: it is returned, not refused as another run."""
    record_json = json.loads(path.read_text())
    run = parse_run(record_json["run"])
    shutil.copytree(path.parent, tmp_path / "run")
    record = RunRecord(tmp_path / "run")
    record.claim_folder(run, record_json["environment"], resume=False)
    assert record.read_result() == record_json["result"]
    assert parse_run(run.json) == run


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").rglob(PACKED_RUNS)), ids=lambda path: path.parent.name
)
def test_packed_records_in_the_repository_are_accepted_for_their_own_runs(path):
    records = read_packed_runs(path)
    assert records
    for record in records:
        content = record.read_run_json()
        run = parse_run(content["run"])
        record.check_can_continue(run, content["environment"], resume=False)
        assert record.read_result() == content["result"]
        assert record.read_metrics()
        assert parse_run(run.json) == run


def test_no_file_name_in_the_repository_has_a_comma_or_an_equals_sign():
    folders = ("residua", "tests", "experiments", "benchmarks", "docs", "scripts")
    names = [path.name for folder in folders for path in (ROOT / folder).rglob("*")]
    assert [name for name in names if "," in name or "=" in name] == []


def test_every_page_with_a_version_has_that_of_the_package():
    version = residua.__version__
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    wheels = re.findall(r"residua-([\d.]+)-py3", (ROOT / "README.md").read_text())
    assert set(wheels) == {version}


def test_the_numbers_in_the_readme_are_those_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text()
    table = (ROOT / "README.md").read_text().partition("## Measured")[2].partition("## ")[0]
    numbers = re.findall(r"\d+\.\d+ %|\d+\.\d+x", table)
    assert len(numbers) > 8
    for number in numbers:
        assert number in results, number
