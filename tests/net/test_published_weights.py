"""Published weights by name: fetched once, checked, resumed, and everywhere a model is named."""

import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

import residua
from residua import create_model
from residua.cache_folder import list_cached_files
from residua.cli.main import main
from residua.config.weight_registry import find_weights
from residua.errors import RecordError, UsageError
from residua.files import atomic_write
from residua.net import published_model
from residua.net.fetch_weights import explain_why_unreachable, get_weights_folder
from residua.net.model_folder import find_model_folder, read_model_config
from tests.data.file_server import run_file_server
from tests.weight_publisher import NAMES, PATH_ON_HUB, publish_weights

ROOT = Path(residua.__file__).parent.parent


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with publish_weights(tmp_path, monkeypatch) as publisher:
        yield publisher


def read_hidden_and_visible_files():
    folder = get_weights_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_weights_are_fetched_once_and_compute_what_was_published(publisher):
    classifier = residua.load("tiny.v1")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(classifier.net(x), publisher.net(x))
    assert classifier.classes == NAMES
    assert (classifier.config.mean, classifier.config.resize) == ((0.5, 0.4, 0.3), 36)
    assert classifier.config.license == "apache-2.0"
    assert classifier.config.published_sum == publisher.sha256
    assert torch.equal(residua.load("tiny").net(x), publisher.net(x))
    assert publisher.asked == [(PATH_ON_HUB, None)]
    assert [file.kind for file in list_cached_files()] == ["weights"]


@pytest.mark.parametrize("name", ["tiny", "tiny.v1"])
def test_create_model_takes_a_name_of_weights(publisher, name):
    x = torch.randn(2, 3, 32, 32)
    net = create_model("cifar-resnet8", num_classes=3, pretrained=name).eval()
    assert torch.equal(net(x), publisher.net(x))
    other = create_model("cifar-resnet8", num_classes=7, pretrained=name)
    assert other.state_dict()["stem.0.weight"].equal(publisher.net.state_dict()["stem.0.weight"])


def test_pretrained_true_means_the_weights_of_the_network(publisher):
    x = torch.randn(2, 3, 32, 32)
    net = create_model("cifar-resnet8", num_classes=3, pretrained=True).eval()
    assert torch.equal(net(x), publisher.net(x))
    with pytest.raises(UsageError, match="no published weights of cifar-resnet32 are known"):
        create_model("cifar-resnet32", pretrained=True)


def test_a_path_that_exists_wins_over_a_name_and_this_is_said(publisher, capsys):
    folder = find_model_folder(Path("tiny"))
    Path("tiny").symlink_to(folder)
    asked = list(publisher.asked)
    found = find_model_folder(Path("tiny"))
    assert found == Path("tiny").absolute()
    assert publisher.asked == asked
    assert "tiny is taken as a path, because it exists" in capsys.readouterr().err
    find_model_folder(found)
    assert capsys.readouterr().err == ""
    publisher.user_file.write_text("{")  # is not needed
    assert find_model_folder("tiny") == Path("tiny")


def test_an_interrupted_download_goes_on_in_another_process(publisher):
    publisher.server.cuts[:] = [100_000, 0]  # then nothing more: the process gives up
    command = [sys.executable, "-c", "import residua; residua.load('tiny')"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "RecordError: tiny.v1 cannot be fetched from" in first.stderr
    assert read_hidden_and_visible_files() == [".tiny.v1.safetensors.download"]
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert publisher.asked[-1] == (PATH_ON_HUB, "bytes=100000-")


def test_a_download_that_loses_its_connection_is_retried_while_bytes_arrive(publisher):
    publisher.server.cuts[:] = [100_000, 100_000]
    residua.load("tiny")
    assert [range_ for _, range_ in publisher.asked] == [None, "bytes=100000-", "bytes=200000-"]


def expect_failure(message, name="tiny"):
    with pytest.raises(RecordError) as error:
        residua.load(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_with_another_sum_is_refused_and_nothing_is_kept(publisher):
    wrong = bytearray(publisher.content)
    wrong[-1] ^= 1
    publisher.server.files[PATH_ON_HUB] = bytes(wrong)
    actual = hashlib.sha256(wrong).hexdigest()
    expect_failure(f"its {len(wrong):,} bytes is {actual}, not {publisher.sha256}; nothing was")
    assert read_hidden_and_visible_files() == []


def test_a_truncated_file_is_refused_and_nothing_is_kept(publisher):
    publisher.server.files[PATH_ON_HUB] = publisher.content[:1000]
    expect_failure("its 1,000 bytes is")
    assert read_hidden_and_visible_files() == []


def test_a_damaged_part_of_an_earlier_download_is_thrown_away(publisher):
    get_weights_folder().mkdir(parents=True)
    (get_weights_folder() / ".tiny.v1.safetensors.download").write_bytes(b"wrong")
    residua.load("tiny")
    assert [range_ for _, range_ in publisher.asked] == ["bytes=5-", None]


def test_a_moved_file_is_followed_and_a_missing_one_is_said_with_its_place(publisher):
    publisher.server.files["/elsewhere"] = publisher.server.files.pop(PATH_ON_HUB)
    publisher.server.moved[PATH_ON_HUB] = f"{publisher.server.url}/elsewhere"
    residua.load("tiny")
    main(["cache", "clear"])
    publisher.server.moved.clear()
    message = expect_failure("HTTP Error 404")
    assert f"put the file with the SHA-256 sum {publisher.sha256} at" in message
    assert str(get_weights_folder() / "tiny.v1.safetensors") in message
    assert publisher.server.url + PATH_ON_HUB in message


def test_a_file_that_was_put_by_hand_is_used_without_the_network(publisher, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    expect_failure("(offline, as HF_HUB_OFFLINE or the command line asks)")
    (get_weights_folder() / "tiny.v1.safetensors").write_bytes(publisher.content)
    residua.load("tiny")
    assert publisher.asked == []


def test_a_wrong_file_that_was_put_by_hand_is_not_used(publisher, capsys):
    get_weights_folder().mkdir(parents=True)
    (get_weights_folder() / "tiny.v1.safetensors").write_bytes(b"wrong")
    residua.load("tiny")
    said = capsys.readouterr().err
    assert "tiny.v1.safetensors is not tiny.v1, because its SHA-256 sum is" in said


def test_the_caches_of_torch_and_of_the_hub_are_used(publisher, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "~/hf")
    snapshot = tmp_path / "hf" / "hub" / "models--owner--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(publisher.content)
    residua.load("tiny")
    assert publisher.asked == []
    assert f"tiny.v1 is used from {snapshot}" in capsys.readouterr().err

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    publisher.offer(name="other.v1", address="https://host.invalid/models/other.safetensors")
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "other.safetensors").write_bytes(publisher.content)
    residua.load("other")
    assert publisher.asked == []


def test_a_prefix_of_a_sum_is_completed_and_then_demanded(publisher):
    publisher.offer(sha256=publisher.sha256[:8])
    residua.load("tiny")
    recorded = (get_weights_folder() / "tiny.v1.sha256").read_text()
    assert recorded.split()[0] == publisher.sha256
    main(["cache", "clear", "weights/*"])
    publisher.server.files[PATH_ON_HUB] = publisher.content + b"x"
    expect_failure(f"not {publisher.sha256}; nothing was kept")
    main(["cache", "clear", "weights/*.sha256"])
    assert read_hidden_and_visible_files() == []


def test_an_unknown_sum_is_asked_of_the_hub(publisher):
    publisher.offer(sha256="")
    expect_failure("cannot be checked, because no SHA-256 sum of it is known")
    # the hub states it where it refers to its file servers
    publisher.server.headers = {"X-Linked-Etag": f'"{publisher.sha256}"'}
    publisher.server.files["/elsewhere"] = publisher.server.files.pop(PATH_ON_HUB)
    publisher.server.moved[PATH_ON_HUB] = f"{publisher.server.url}/elsewhere"
    residua.load("tiny")
    assert (get_weights_folder() / "tiny.v1.sha256").read_text().startswith(publisher.sha256)


def test_mirror_and_endpoint_have_the_layouts_of_their_kinds(publisher, monkeypatch):
    publisher.server.files["/owner/tiny/resolve/main/model.safetensors"] = publisher.content
    publisher.server.files["/files/plain.safetensors"] = publisher.content
    monkeypatch.delenv("RESIDUA_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", publisher.server.url)
    residua.load("tiny")
    monkeypatch.setenv("RESIDUA_MIRROR", f"{publisher.server.url}/files/")
    publisher.offer(name="plain.v1", address="https://host.invalid/models/plain.safetensors")
    residua.load("plain")
    assert [path for path, _ in publisher.asked] == [
        "/owner/tiny/resolve/main/model.safetensors",
        "/files/plain.safetensors",
    ]
    monkeypatch.setenv("RESIDUA_MIRROR", "mirror")
    publisher.offer(name="third.v1")
    with pytest.raises(UsageError, match="RESIDUA_MIRROR=mirror is not a URL"):
        residua.load("third")


def test_a_full_disk_is_one_sentence_and_nothing_is_kept(publisher):
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "from residua.cli.main import main; raise SystemExit(main(['predict', 'tiny', 'a.png']))"
    )
    Image.new("RGB", (40, 40)).save("a.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("residua: tiny.v1 cannot be written to")
    assert "File too large; set XDG_CACHE_HOME to another folder" in last
    assert read_hidden_and_visible_files() == []


def test_without_a_network_the_sentence_has_address_sum_and_place(publisher, monkeypatch):
    monkeypatch.setenv("RESIDUA_MIRROR", "http://127.0.0.1:9")
    message = expect_failure("from http://127.0.0.1:9/owner/tiny/model.safetensors (Connection")
    assert publisher.sha256 in message
    assert str(get_weights_folder() / "tiny.v1.safetensors") in message
    assert read_hidden_and_visible_files() == []


@contextmanager
def encrypting_server(publisher, folder):
    """The publisher behind a certificate that nobody has signed, as of a proxy that inspects."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    words = [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "cert"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with run_file_server(context) as server:
        server.files |= publisher.server.files
        yield server.url, folder / "cert"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_intercepting_certificate_is_refused_until_it_is_trusted(
    publisher, monkeypatch, tmp_path, variable
):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with encrypting_server(publisher, tmp_path) as (url, certificate):
        monkeypatch.setenv("RESIDUA_MIRROR", url)
        message = expect_failure("its certificate is not trusted (self-signed certificate); if")
        assert "set SSL_CERT_FILE to its certificates" in message
        assert read_hidden_and_visible_files() == []
        monkeypatch.setenv(variable, str(certificate))
        residua.load("tiny")


def test_threads_that_need_the_same_weights_fetch_them_once(publisher):
    threads = [threading.Thread(target=residua.load, args=("tiny",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert publisher.asked == [(PATH_ON_HUB, None)]


def test_a_process_that_waited_for_the_conversion_uses_it(publisher, monkeypatch):
    """The waiting one finds nothing at first, and the file is deleted when its turn comes."""
    release = threading.Event()
    publisher.server.pause = release.wait
    first = threading.Thread(target=residua.load, args=("tiny",))
    first.start()
    while not publisher.asked:
        time.sleep(0.01)
    fetched, fetch_weights = [], published_model.fetch_weights
    monkeypatch.setattr(
        published_model, "fetch_weights", lambda w: fetched.append(w) or fetch_weights(w)
    )
    second = threading.Thread(target=residua.load, args=("tiny",))
    second.start()
    time.sleep(0.2)
    release.set()
    first.join()
    second.join()
    assert publisher.asked == [(PATH_ON_HUB, None)]
    assert fetched == []


def test_clearing_the_cache_waits_for_a_download(publisher):
    release, loaded = threading.Event(), []
    publisher.server.pause = release.wait
    thread = threading.Thread(target=lambda: loaded.append(residua.load("tiny")))
    thread.start()
    while ".tiny.v1.safetensors.download" not in read_hidden_and_visible_files():
        time.sleep(0.01)
    threading.Timer(0.3, release.set).start()
    main(["cache", "clear"])
    assert release.is_set()
    thread.join()
    assert len(loaded) == 1


def test_clearing_the_cache_waits_for_a_writer_of_a_folder(publisher):
    target = get_weights_folder() / "tiny.v1-0123"
    target.parent.mkdir(parents=True)
    written = threading.Event()

    def write():
        with atomic_write(target) as temporary:
            temporary.mkdir()
            written.set()
            time.sleep(0.3)
            (temporary / "config.json").write_text("{}")

    thread = threading.Thread(target=write)
    thread.start()
    written.wait()
    main(["cache", "clear"])
    thread.join()
    assert (target / "config.json").exists()


def test_a_name_and_a_password_of_a_mirror_are_sent_and_not_shown(publisher, monkeypatch, capsys):
    url = publisher.server.url
    monkeypatch.setenv("RESIDUA_MIRROR", url.replace("//", "//user:s3cret@"))
    publisher.server.files["/elsewhere"] = publisher.server.files[PATH_ON_HUB]
    publisher.server.moved[PATH_ON_HUB] = "/elsewhere"
    residua.load("tiny")
    assert publisher.server.authorizations == ["Basic dXNlcjpzM2NyZXQ="] * 2  # of RFC 7617's scheme
    main(["cache", "clear"])
    with run_file_server() as other:
        publisher.server.moved[PATH_ON_HUB] = f"{other.url}/elsewhere"
        shown = expect_failure("HTTP Error 404")
        assert other.authorizations == [None]
    weights = find_weights("tiny")
    publisher.server.moved.clear()
    publisher.server.files.clear()
    shown += explain_why_unreachable(weights) + capsys.readouterr().err
    monkeypatch.setenv("RESIDUA_MIRROR", "http://user:s3c/ret@host")
    with pytest.raises(UsageError, match="is not a URL") as error:
        residua.load("tiny")
    shown += str(error.value)
    assert "***@" in shown
    assert not any(word in shown for word in ("user", "s3c", "ret@"))


def test_a_mirror_may_have_other_letters_and_announce_no_length(publisher, monkeypatch):
    publisher.server.files[f"/%C3%A9{PATH_ON_HUB}"] = publisher.content
    publisher.server.length, publisher.server.headers = False, {"Content-Length": "abc"}
    monkeypatch.setenv("RESIDUA_MIRROR", f"{publisher.server.url}/é")
    residua.load("tiny")
    monkeypatch.setenv("RESIDUA_MIRROR", "http://[::1")
    main(["cache", "clear"])
    with pytest.raises(UsageError, match=r"RESIDUA_MIRROR=http://\[::1 is not a URL"):
        residua.load("tiny")


def test_bottlenecks_stride_where_the_entry_says(tmp_path, monkeypatch):
    name = "cifar-resnet11,block=bottleneck"
    with publish_weights(tmp_path, monkeypatch, f"{name},stride=3x3") as publisher:
        x = torch.randn(2, 3, 32, 32)
        assert torch.equal(residua.load("tiny").net(x), publisher.net(x))
        publisher.offer(network=name)
        expect_failure(
            f"leaves open which convolution of a bottleneck strides: write {name},stride"
        )


def test_what_weights_cannot_show_is_said_when_they_are_converted(publisher, capsys):
    residua.load("tiny")
    assert "tiny.v1: residua adds the zero channels of option A" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["./tiny", "tiny/"])
def test_what_is_written_as_a_path_is_no_name(publisher, capsys, written):
    Image.new("RGB", (40, 40)).save("a.png")
    assert main(["predict", written, "a.png"]) == 1
    assert "tiny does not exist" in capsys.readouterr().err
    with pytest.raises(RecordError, match="does not exist"):
        residua.load(written)
    assert publisher.asked == []


def test_entries_with_files_of_the_same_name_have_files_of_their_own(publisher):
    for name in ("one.v1", "two.v1"):
        publisher.offer(name=name, address=f"https://host.invalid/{name}/model.pth")
        assert find_weights(name).file_name == f"{name}.pth"


def test_the_service_takes_a_name(publisher, capsys):
    pytest.importorskip("uvicorn")
    with stalling_server() as url:  # a port in use is said after the model is found to be named
        assert main(["serve", "tiny", "--port", url.rpartition(":")[2]]) == 1
    assert "does not exist" not in capsys.readouterr().err


def test_a_non_commercial_licence_is_said_before_anything_is_fetched(publisher, capsys):
    publisher.offer(licence="cc-by-nc-4.0")
    publisher.server.files.clear()
    expect_failure("HTTP Error 404")
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "residua: tiny.v1 must not be used commercially: its licence is cc-by-nc-4.0"


@contextmanager
def stalling_server():
    """A server that accepts connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_whether_weights_can_be_had_is_decided_in_time(publisher, monkeypatch):
    weights = find_weights("tiny")
    assert explain_why_unreachable(weights) == ""
    with stalling_server() as url:
        monkeypatch.setenv("RESIDUA_MIRROR", url)
        started = time.monotonic()
        assert "did not answer within 0.3 seconds" in explain_why_unreachable(weights, 0.3)
        assert time.monotonic() - started < 5  # below what a connection may take to time out
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in explain_why_unreachable(weights)


def test_a_damaged_model_in_the_cache_is_fetched_again(publisher):
    folder = find_model_folder(Path("tiny"))
    (folder / "model.safetensors").write_bytes(b"damaged")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(residua.load("tiny").net(x), publisher.net(x))
    assert len(publisher.asked) == 2


def test_a_changed_entry_is_converted_anew(publisher):
    residua.load("tiny")
    publisher.offer(mean=[0.1, 0.2, 0.3])
    assert residua.load("tiny").config.mean == (0.1, 0.2, 0.3)


def test_weights_that_do_not_fit_their_network_are_refused_with_the_difference(publisher):
    publisher.offer(network="cifar-resnet20")
    expect_failure("cannot be used as tiny.v1: the file has 1 + 1 + 1 units")


def test_a_disk_without_room_for_the_model_keeps_nothing_and_names_the_way_on(
    publisher, monkeypatch
):
    def fail(net, config, folder):
        raise RecordError(f"the model could not be written to {folder}: No space left on device")

    monkeypatch.setattr("residua.net.published_model.save_pretrained", fail)
    expect_failure("No space left on device; set XDG_CACHE_HOME to a folder with more space")
    assert not list(get_weights_folder().glob("*.safetensors"))


def test_show_names_the_network_of_weights(publisher, capsys):
    assert main(["show", "tiny.v1"]) == 0
    out, err = capsys.readouterr()
    assert err == "residua: tiny.v1 names weights of cifar-resnet8\n"
    assert out.startswith("cifar-resnet8\n")
    assert main(["show", "resnet50"]) == 0
    out, err = capsys.readouterr()
    assert err == (
        "residua: the published weights that resnet50 stands for are of resnet50,stride=3x3\n"
    )
    assert out.startswith("resnet50\n")


def test_the_commands_take_a_name(publisher, capsys, tmp_path):
    Image.new("RGB", (40, 40), "red").save("a.png")
    assert main(["predict", "tiny", "a.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] in NAMES
    assert main(["convert", "tiny", "--to", "timm", "--out", "timm.safetensors"]) == 0
    capsys.readouterr()
    values = ["--mean", "0", "0", "0", "--std", "1", "1", "1", "--classes", *NAMES]
    assert main(["convert", "tiny", "--model", "cifar-resnet8", *values, "--out", "o"]) == 1
    assert "tiny names published weights, usable as they are" in capsys.readouterr().err
    assert main(["predict", "a.png", "tiny"]) == 2
    assert "a.png is not a model, but tiny is: give the model first" in capsys.readouterr().err
    Path("photos").mkdir()
    Path("a.png").rename("photos/a.png")
    Path("photos/config.json").write_text("{}")  # of another program
    assert main(["predict", "tiny", "photos", "--json"]) == 0
    capsys.readouterr()
    assert main(["models", "--weights", "tiny*", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["weights"]
    assert entry["sha256"] == publisher.sha256
    assert entry["classes"] == 3
    assert set(entry) >= {"name", "network", "address", "top1_error", "licence"}
    assert main(["cache", "list", "--json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert file["kind"] == "weights"
    assert file["bytes"] > len(publisher.content)
    assert main(["cache", "clear"]) == 0
    assert list_cached_files() == []


def test_a_temperature_is_not_stored_in_the_cache(publisher, capsys):
    for index, name in enumerate(NAMES):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40), (90 * index, 40 * i, 0)).save(folder / f"{i}.png")
    assert main(["evaluate", "tiny", "photos", "--calibrate"]) == 2
    assert "tiny stays as it was published" in capsys.readouterr().err
    relative = str(find_model_folder("tiny").relative_to(Path.cwd()))
    assert main(["evaluate", relative, "photos", "--calibrate"]) == 2
    assert "stays as it was published" in capsys.readouterr().err
    assert main(["evaluate", "tiny", "photos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6


def test_evaluate_matches_imagenets_classes_and_prints_the_mapping(publisher, capsys):
    publisher.offer(class_names=["tench", "golden retriever", "Cardigan"])
    for name in ("n01440764", "Golden_Retriever", "CARDIGAN"):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), (name[:1] == "n" and "red") or "blue").save(folder / "0.png")
    assert main(["evaluate", "tiny", "photos", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["count"] == 3
    mapping = "CARDIGAN = Cardigan, Golden_Retriever = golden retriever, n01440764 = tench"
    assert f"classes matched by another name: {mapping}" in printed.err
    (Path("photos") / "CARDIGAN").rename(Path("photos") / "my_cat")
    assert main(["evaluate", "tiny", "photos"]) == 2
    assert "has classes that the model does not know, my_cat" in capsys.readouterr().err
    (Path("photos") / "my_cat").rename(Path("photos") / "tench")
    assert main(["evaluate", "tiny", "photos"]) == 2
    assert "the classes n01440764 and tench of" in capsys.readouterr().err


def test_a_name_that_is_nearly_right_is_suggested(publisher, capsys):
    Image.new("RGB", (40, 40)).save("a.png")
    assert main(["predict", "tiny.v2", "a.png"]) == 1
    assert "give the folder of a run or of a model, or tiny.v1, which is published" in (
        capsys.readouterr().err
    )


def test_the_model_card_says_whose_weights_they_are(publisher):
    folder = find_model_folder(Path("tiny"))
    assert read_model_config(folder).published_as == "tiny.v1"
    assert "published as tiny.v1" in (folder / "README.md").read_text()
