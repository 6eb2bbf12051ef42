"""A model goes to the hub and back: the real huggingface_hub, and a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import residua
from residua.cli.main import main
from residua.deploy.push import prepare_upload
from residua.net.model_folder import load_model_folder
from tests.cli_runner import run_cli
from tests.loopback_hub import run_loopback_hub

hub_library = pytest.importorskip("huggingface_hub")

# huggingface_hub reads its variables when it is imported, so the commands run in a process of
# their own: one for all of them, because it imports torch.
COMMANDS_SCRIPT = """
import contextlib, io, json, os, sys
import huggingface_hub.constants, residua
from residua.cli.main import main
from safetensors.torch import save_file

def run_one(words):
    if words[0] == "load":
        save_file(residua.load(words[1]).net.state_dict(), words[2])
        return 0
    if words[0] == "python":
        print(json.dumps(residua.push(*words[1:])))
        return 0
    return main(words)

def run_command(step):
    os.environ |= step.get("variables", {})
    before = vars(huggingface_hub.constants).copy()
    vars(huggingface_hub.constants).update(step.get("constants", {}))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_one(step["words"])
    vars(huggingface_hub.constants).update(before)
    return code, out.getvalue(), err.getvalue()

print(json.dumps([run_command(step) for step in json.load(sys.stdin)]))
"""


def run_commands(hub, cache, steps):
    """Run commands with the hub: [{"words": [...], "variables": {...}, "constants": {...}}, ...].

    Returns (exit code, standard output, standard error) of each.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS_SCRIPT],
        input=json.dumps([step | {"words": [*map(str, step["words"])]} for step in steps]),
        env=kept | hub.variables(cache),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(result) for result in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "r"
    options = ["--model", "cifar-resnet8", "--steps", "2", "--precision", "fp32"]
    assert main(["train", "digits", *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def hub():
    with run_loopback_hub() as server:
        yield server


class PortalHandler(BaseHTTPRequestHandler):
    """Answers everything by a web page, or everything below /nothing by 404."""

    def do_GET(self):
        page = b"<html>Please log in</html>"
        self.send_response(404 if self.path.startswith("/nothing") else 200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


class Portal(ThreadingHTTPServer):
    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


@pytest.fixture(scope="module")
def portal():
    """A server that is not a hub, such as that of a network which asks its guests to log in."""
    with Portal(("127.0.0.1", 0), PortalHandler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def results(hub, portal, run_folder, tmp_path_factory):
    """What the commands below print, by name, with `hub` in the state after all of them."""
    folder = tmp_path_factory.mktemp("hub")
    image = folder / "three.png"
    Image.new("L", (8, 8), 90).save(image)
    refused_card = shutil.copytree(run_folder / "last", folder / "refused card")
    (refused_card / "README.md").write_text('---\nx: [{"dataset": {"type": "all digits"}}]\n---\n')
    hub.add_files("someone/open", {"README.md": b"public"})
    weights = (run_folder / "last" / "model.safetensors").read_bytes()
    config = (run_folder / "last" / "config.json").read_bytes()
    hub.add_files("another/digits", {"config.json": config, "model.safetensors": weights})
    hub.cuts += [1000, 700]  # the first two downloads: config.json or model.safetensors
    push = ["push", run_folder]
    commands = {
        "cut": {"words": ["load", "hf:another/digits", folder / "cut.safetensors"]},
        "push": {"words": [*push, "hf:someone/digits", "--json"]},
        "predict": {"words": ["predict", "hf:someone/digits", image, "--json"]},
        "load": {"words": ["load", "hf:someone/digits", folder / "loaded.safetensors"]},
        "again": {"words": [*push, "hf:someone/digits", "--message", "once more", "--json"]},
        "private": {"words": [*push, "hf:someone/secret", "--private"]},
        "open": {"words": [*push, "hf:someone/open", "--private"]},
        "python": {"words": ["python", run_folder / "last", "hf:someone/from-python"]},
        "card": {"words": ["push", refused_card, "hf:someone/card"]},
        "foreign": {"words": [*push, "hf:another/digits"]},
        "foreign, new": {"words": [*push, "hf:another/new"]},
        "offline": {"words": [*push, "hf:someone/x"], "constants": {"HF_HUB_OFFLINE": True}},
        "no hub": {
            "words": [*push, "hf:someone/x"],
            "constants": {"ENDPOINT": portal.url("page")},
        },
        "nothing there": {
            "words": [*push, "hf:someone/x"],
            "constants": {"ENDPOINT": portal.url("nothing")},
        },
        "no address": {
            "words": [*push, "hf:someone/x"],
            "constants": {"ENDPOINT": "localhost"},
        },
        "garbled token": {
            "words": [*push, "hf:someone/x"],
            "variables": {"HF_TOKEN": "hf_secrét"},
        },
        "away": {
            "words": [*push, "hf:someone/x"],
            "constants": {"ENDPOINT": "http://127.0.0.1:9"},
            "variables": {"HF_TOKEN": "hf_writer"},
        },
        "wrong token": {"words": [*push, "hf:someone/x"], "variables": {"HF_TOKEN": "hf_old"}},
        "no token": {"words": [*push, "hf:someone/x"], "variables": {"HF_TOKEN": ""}},
    }
    printed = run_commands(hub, folder / "cache", commands.values())
    return {"folder": folder, **dict(zip(commands, printed, strict=True))}


def test_the_files_of_the_model_folder_are_on_the_hub_after_one_commit(hub, results, run_folder):
    code, out, err = results["push"]
    assert code == 0, err
    facts = json.loads(out)
    repository = hub.repositories["someone/digits"]
    assert list(repository.commits)[1] == facts["commit"]
    assert repository.messages == ["initial commit", "Upload cifar-resnet8, trained on digits"]
    stored = {name: file.content for name, file in repository.files.items()}
    for name in ("config.json", "model.safetensors"):
        assert stored[name] == (run_folder / "last" / name).read_bytes()
    assert repository.files["model.safetensors"].is_lfs
    assert facts == {
        "repository": "someone/digits",
        "address": f"{hub.url}/someone/digits",
        "commit": repository.head,
        "created": True,
        "private": False,
        "folder": str(run_folder / "last"),
        "files": [
            {"name": name, "bytes": len(stored[name])}
            for name in ("config.json", "README.md", "model.safetensors")
        ],
    }
    size = len(stored["model.safetensors"])
    assert f"model.safetensors ({size:,} bytes) from {run_folder / 'last'} to hf:someone/" in err


def test_the_weights_come_back_bit_for_bit(results, run_folder):
    theirs = load_file(run_folder / "last" / "model.safetensors")
    for name, file in (("load", "loaded"), ("cut", "cut")):
        assert results[name][0] == 0
        ours = load_file(results["folder"] / f"{file}.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in {**ours, **theirs})


def test_a_download_that_was_cut_off_is_asked_for_again(hub, results):
    assert hub.cuts == []
    downloads = Counter(
        path
        for method, path, _ in hub.asked
        if method == "GET" and ("another/digits/resolve" in path or "/lfs/" in path)
    )
    assert len([path for path, count in downloads.items() if count > 1]) >= 1


def test_the_hub_on_this_machine_answers_ranges(hub):
    hub.plain_files["/w.pth"] = b"0123456789"

    def ask(asked):
        request = urllib.request.Request(f"{hub.url}/w.pth", headers={"Range": asked})
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Range"], answer.read()

    assert ask("bytes=7-") == (206, "bytes 7-9/10", b"789")
    assert ask("bytes=2-4") == (206, "bytes 2-4/10", b"234")
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask("bytes=10-")
    assert (caught.value.code, caught.value.headers["Content-Range"]) == (416, "bytes */10")
    caught.value.close()


def test_a_pushed_model_predicts_as_the_local_one(results, run_folder, capsys):
    code, out, err = results["predict"]
    assert code == 0, err
    image = str(results["folder"] / "three.png")
    assert run_cli(capsys, "predict", run_folder, image, "--json")[:2] == (0, out)


def test_the_card_names_the_repository_and_its_metadata_can_be_read(hub, results):
    text = hub.repositories["someone/digits"].files["README.md"].content.decode()
    assert "residua predict hf:someone/digits image.png" in text
    assert 'residua.load("hf:someone/digits")' in text
    data = hub_library.ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("residua", "image-classification")
    assert data.eval_results[0].dataset_name == "digits"


def test_an_unchanged_model_makes_no_new_commit(hub, results):
    code, out, _ = results["again"]
    assert (code, json.loads(out)["created"]) == (0, False)
    assert json.loads(out)["commit"] == json.loads(results["push"][1])["commit"]
    assert len(hub.repositories["someone/digits"].commits) == 2


def test_a_private_repository_is_created_as_one(hub, results):
    code, out, _ = results["private"]
    assert code == 0
    assert hub.repositories["someone/secret"].is_private
    assert out.startswith(f"{hub.url}/someone/secret\nnew, private, commit ")


def test_a_public_repository_gets_nothing_that_is_to_be_private(hub, results):
    code, _, err = results["open"]
    assert code == 1
    assert err.splitlines()[-1] == (
        "residua: hf:someone/open exists and is public, so nothing was uploaded: make it private "
        "in its settings on the hub, or choose another name"
    )
    assert list(hub.repositories["someone/open"].files) == ["README.md"]


def test_python_pushes_a_model_folder(hub, results):
    code, out, err = results["python"]
    assert code == 0, err
    repository = hub.repositories["someone/from-python"]
    assert json.loads(out)["commit"] == repository.head
    assert set(repository.files) == {"config.json", "README.md", "model.safetensors"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wrong token", "URL does not know you: set HF_TOKEN to a token that may write, or log in"),
        ("no token", "URL does not know you: set HF_TOKEN to a token that may write, or log in"),
        ("foreign", "your token may not write to another/digits: use a token of another that may"),
        ("foreign, new", "your token may not write to another/new: use a token of another that"),
        ("offline", "HF_HUB_OFFLINE is set: unset it to push"),
        ("away", "there is no connection to http://127.0.0.1:9 ("),
        ("no hub", "PORTAL/page does not answer as a Hugging Face hub does: set HF_ENDPOINT to"),
        ("nothing there", "PORTAL/nothing does not answer as a Hugging Face hub does: set HF_EN"),
        ("no address", "localhost is not an address: set HF_ENDPOINT to https://HOST, or unset it"),
        ("garbled token", "your token has characters that no token has: set HF_TOKEN anew, or lo"),
        ("card", "Invalid metadata in README.md. - dataset.type with value 'all digits' fails: me"),
    ],
)
def test_a_refusal_is_one_sentence_and_changes_nothing(hub, portal, results, name, sentence):
    sentence = sentence.replace("PORTAL/", portal.url(""))
    code, out, err = results[name]
    assert (code, out) == (1, "")
    [_, last_line] = err.splitlines()
    assert f" could not be pushed: {sentence.replace('URL', hub.url)}" in last_line
    assert "Traceback" not in err
    assert name == "card" or "README" not in last_line.partition(" could not be pushed: ")[2]
    assert "hf_sec" not in err
    assert set(hub.repositories) >= {"someone/digits", "another/digits"}
    assert not set(hub.repositories) & {"someone/x", "another/new"}
    assert len(hub.repositories["another/digits"].commits) == 2


@pytest.mark.parametrize("target", ["someone/digits", "hf:digits", "hf:a/b/c", "hf:../x", "hf:"])
def test_a_wrong_name_is_refused(run_folder, capsys, target):
    code, _, err = run_cli(capsys, "push", run_folder, target)
    assert code == 2
    assert err == (f"residua: {target} is not a name on the Hugging Face hub: write hf:OWNER/NAME")


def test_what_is_no_finished_run_and_no_model_folder_is_refused(run_folder, tmp_path, capsys):
    def push(source):
        code, out, err = run_cli(capsys, "push", source, "hf:someone/x")
        assert out == ""
        return code, err.removeprefix("residua: ")

    assert push(tmp_path / "missing")[1].startswith(f"{tmp_path / 'missing'} does not exist: give")
    assert push(tmp_path) == (1, f"{tmp_path} is not a model folder: it has no config.json")
    weights = run_folder / "last" / "model.safetensors"
    assert push(weights)[1].startswith(f"{weights} is a weight file, not a model folder")
    assert push("hf:someone/digits") == (
        2,
        "hf:someone/digits is on the hub already: give the folder of a run or of a model",
    )
    record = json.loads((run_folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"result": None}))
    code, err = push(tmp_path)
    assert code == 2
    assert err == f"the run in {tmp_path} is not finished: continue it with --resume"
    (tmp_path / "best").mkdir()
    assert push(tmp_path)[1].endswith(f"with --resume, or give {tmp_path / 'best'}")


def test_damaged_weights_are_not_pushed(run_folder, tmp_path):
    net, config = load_model_folder(run_folder / "last")
    residua.save_pretrained(net, config, tmp_path / "m")
    weights = bytearray((tmp_path / "m" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "m" / "model.safetensors").write_bytes(weights)
    with pytest.raises(residua.RecordError, match=r"does not match its config\.json"):
        prepare_upload(tmp_path / "m", "hf:someone/x")


def test_a_missing_library_is_named(run_folder, capsys, monkeypatch):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    code, _, err = run_cli(capsys, "push", run_folder, "hf:someone/x")
    assert (code, err) == (
        2,
        "residua: push needs huggingface-hub, which is not installed: pip install huggingface-hub",
    )


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        ("apache-2.0", "licence apache-2.0, of the weights that it started from"),
        (
            "cc-by-nc-4.0",
            "licence cc-by-nc-4.0, of the weights that it started from, no",
        ),
        ("", "licence not known for the weights that it started from"),
    ],
)
def test_origin_and_licence_of_the_weights_that_a_run_started_from_are_said(
    licence, words, run_folder, tmp_path, capsys
):
    """Also of a run that started from such a run."""
    net, config = load_model_folder(run_folder / "last")
    sha256 = "ab" * 32
    published = {"published_as": "resnet18.x", "published_sum": sha256, "license": licence}
    residua.save_pretrained(net, replace(config, **published), tmp_path / "start")
    first, second = tmp_path / "first", tmp_path / "second"
    train = ["train", "digits", "--steps", "2", "--precision", "fp32"]
    assert main([*train, "--from", str(tmp_path / "start"), "--out", str(first)]) == 0
    assert main([*train, "--from", str(first), "--out", str(second)]) == 0
    for folder in (first, second):
        upload = prepare_upload(folder, "hf:someone/x")
        assert f"; started from the weights resnet18.x, SHA-256 `{sha256}`; {words}" in (
            upload.describe()
        )
        card = upload.files["README.md"].decode()
        assert f"| started from | the weights resnet18.x, SHA-256 `{sha256}` |" in card
        assert f"| licence | {words.removeprefix('licence ')}" in card
        assert (f'license: "{licence}"' in card) == bool(licence)
