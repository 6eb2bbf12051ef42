"""The images that the server's page offers to click."""

import base64
from io import BytesIO
from urllib.parse import quote

import pytest
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.cli.main import main
from residua.deploy.example_images import MAX_EXAMPLES, load_example_images
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.errors import UsageError
from residua.net.model_folder import save_pretrained
from tests.deploy.live_server import (
    make_image_bytes,
    make_small_engine,
    make_small_model,
    run_server,
    send_request,
)

LIMITS = ServerLimits(max_body_bytes=5_000, max_image_pixels=5_000)


@pytest.fixture(scope="module")
def preprocessing():
    return make_small_model()[1]


def write_images(folder, *names, content=None):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).write_bytes(make_image_bytes(seed) if content is None else content)


def test_examples_come_in_turn_from_each_subfolder(tmp_path, preprocessing):
    write_images(tmp_path / "ant", *(f"a{i:02}.png" for i in range(20)))
    write_images(tmp_path / "bee", "b0.png", "b1.png")
    write_images(tmp_path / "cat", "c0.png")
    names = [example.name for example in load_example_images(tmp_path, preprocessing, LIMITS)]
    assert names[:6] == ["a00.png", "b0.png", "c0.png", "a01.png", "b1.png", "a02.png"]
    assert len(names) == MAX_EXAMPLES


def test_examples_take_bounded_memory(tmp_path, preprocessing, monkeypatch):
    write_images(tmp_path, *(f"{i}.png" for i in range(5)))
    sizes = [(tmp_path / f"{i}.png").stat().st_size for i in range(5)]
    monkeypatch.setattr("residua.deploy.example_images.MAX_EXAMPLE_BYTES", sum(sizes[:3]))
    assert len(load_example_images(tmp_path, preprocessing, LIMITS)) == 3


def test_files_that_the_server_would_refuse_are_no_examples(tmp_path, preprocessing):
    write_images(tmp_path, "good.png")
    write_images(tmp_path, "text.jpg", content=b"hello")
    write_images(tmp_path, "cut.png", content=make_image_bytes()[:300])
    write_images(tmp_path, "many-bytes.png", content=make_image_bytes(size=(40, 30)) + bytes(9_000))
    write_images(tmp_path, "many-pixels.png", content=make_image_bytes(size=(100, 60), kind="JPEG"))
    write_images(tmp_path, "empty.png", content=b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    [example] = load_example_images(tmp_path, preprocessing, LIMITS)
    assert example.name == "good.png"
    assert example.content == (tmp_path / "good.png").read_bytes()
    thumbnail = Image.open(BytesIO(base64.b64decode(example.thumbnail_uri.partition(",")[2])))
    assert thumbnail.size == (40, 30)


def test_a_folder_without_acceptable_images_is_refused(tmp_path, preprocessing):
    write_images(tmp_path, "text.jpg", content=b"hello")
    with pytest.raises(UsageError, match="has no image that the server accepts"):
        load_example_images(tmp_path, preprocessing, LIMITS)
    with pytest.raises(UsageError, match="is not a folder: give a folder of images"):
        load_example_images(tmp_path / "text.jpg", preprocessing, LIMITS)


def test_the_server_hands_out_its_examples_and_no_other_file(tmp_path, preprocessing):
    write_images(tmp_path, "a.png", "b.png")
    examples = load_example_images(tmp_path, preprocessing, LIMITS)
    (tmp_path / "b.png").unlink()  # they are kept in memory
    service = PredictionService(make_small_engine(), "", LIMITS, examples=examples)
    with run_server(service) as port:
        for index, example in enumerate(examples):
            status, headers, content = send_request(port, path=f"/examples/{index}", method="GET")
            assert (status, content) == (200, example.content)
            assert headers["content-type"] == "application/octet-stream"
            assert headers["x-content-type-options"] == "nosniff"
            assert send_request(port, content)[0] == 200
        for name in ("2", "-1", "a.png", "..%2fa.png", "00", "\N{SUPERSCRIPT TWO}", "9" * 5_000):
            path = f"/examples/{quote(name, safe='%')}"
            assert send_request(port, path=path, method="GET")[0] == 404
        other = {"Host": "other.example"}
        assert send_request(port, None, "/examples/0", other, "GET")[0] == 421


def test_the_page_offers_the_examples(tmp_path, monkeypatch, capsys):
    save_pretrained(*make_small_model(), tmp_path / "model")
    write_images(tmp_path / "images", 'a"<b>&.png')
    services = []
    monkeypatch.setattr(
        "residua.deploy.serve.serve_until_stopped",
        lambda service, listener, on_listening: services.append(service),
    )
    command = ["serve", str(tmp_path / "model"), "--port", "0", "--engine", "torch"]
    assert main([*command, "--examples", str(tmp_path / "images")]) == 0
    assert main(command) == 0
    with_examples, without_examples = (service.page_html for service in services)
    assert 'data-example="0" data-name="a&#34;&lt;b&gt;&amp;.png"' in with_examples
    assert "<b>&.png" not in with_examples
    assert "data-example=" not in without_examples.replace("[data-example]", "")
    assert main([*command, "--examples", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.endswith("none is not a folder: give a folder of images\n")
