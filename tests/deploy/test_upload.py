"""The forms in which a request can carry images, and the answers to them."""

import base64
import json
import math
import time
from io import BytesIO
from urllib.parse import quote

import pytest
import torch
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.data.decode import decode_image, preprocess_image
from residua.deploy.engine import InferenceEngine, build_torch_engine
from residua.deploy.explain import GradCamExplainer
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.deploy.upload import MAX_REQUEST_IMAGES
from tests.deploy.live_server import (
    make_image_bytes,
    make_multipart_form,
    make_small_engine,
    make_small_model,
    run_server,
    send_request,
)

JSON_TYPE = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shared_engine():
    return make_small_engine()


@pytest.fixture(scope="module")
def server_port(shared_engine):
    limits = ServerLimits(max_image_pixels=1_000_000, max_waiting_images=256)
    with run_server(PredictionService(shared_engine, "", limits)) as port:
        yield port


def compute_probability(engine, content):
    return engine(preprocess_image(decode_image(content), engine.config)[None])[0].max().item()


def make_form_of(*contents):
    """A form with several files."""
    end = b"--edge--\r\n"
    parts = [make_multipart_form(content)[0].removesuffix(end) for content in contents]
    return b"".join(parts) + end, make_multipart_form(b"")[1]


def encode_json(contents, **others):
    """Images as `{"images": [...]}`, or one image as `{"image": ...}`."""
    if isinstance(contents, bytes):
        document = {"image": base64.b64encode(contents).decode()}
    else:
        document = {"images": [base64.b64encode(content).decode() for content in contents]}
    return json.dumps(document | others).encode()


def test_several_files_of_a_form_get_a_list_of_answers_in_their_order(server_port, shared_engine):
    contents = [make_image_bytes(seed, kind) for seed, kind in enumerate(["PNG", "JPEG", "BMP"])]
    body, headers = make_form_of(*contents)
    for answer in (
        send_request(server_port, body, "/predict?top=1", headers),
        send_request(server_port, encode_json(contents), "/predict?top=1", JSON_TYPE),
    ):
        status, _, found = answer
        assert status == 200
        assert [item["probability"] for item in found] == [
            pytest.approx(compute_probability(shared_engine, content), abs=1e-5)
            for content in contents
        ]
        assert all(len(item["top"]) == 1 for item in found)


def test_one_image_in_json_gets_one_answer_and_a_list_of_one_gets_a_list(
    server_port, shared_engine
):
    content = make_image_bytes(3)
    expected = pytest.approx(compute_probability(shared_engine, content), abs=1e-5)
    text = base64.encodebytes(content).decode()  # with line breaks
    for body in (
        encode_json(content),
        json.dumps({"image": text}).encode(),
        json.dumps({"image": "data:image/png;base64," + text}).encode(),
    ):
        status, _, found = send_request(server_port, body, headers=JSON_TYPE)
        assert (status, found["probability"]) == (200, expected)
    found = send_request(server_port, encode_json([content]), headers=JSON_TYPE)[2]
    assert [item["probability"] for item in found] == [expected]


def test_in_a_list_a_text_that_is_not_base64_has_its_own_error(server_port):
    good = base64.b64encode(make_image_bytes()).decode()
    for bad in ("not base64!", "aaa", "\u00e9", "data:image/png,aaaa", good[:-1]):
        body = json.dumps({"images": [good, bad, good]}).encode()
        status, _, found = send_request(server_port, body, headers=JSON_TYPE)
        assert status == 200
        assert found[1]["error"].startswith("the image is not base64: encode the bytes of its file")
        assert found[0] == found[2]
        assert "class" in found[0]
        body = json.dumps({"image": bad}).encode()
        status, _, found = send_request(server_port, body, headers=JSON_TYPE)
        assert (status, found["error"].partition(":")[0]) == (
            400,
            "an image in the JSON is not base64",
        )


def test_in_a_list_an_image_that_cannot_be_decoded_has_its_own_error(server_port):
    contents = [make_image_bytes(), b"no image", make_image_bytes()[:500], b""]
    body, headers = make_form_of(*contents)
    for answer in (
        send_request(server_port, body, headers=headers),
        send_request(server_port, encode_json(contents), headers=JSON_TYPE),
    ):
        assert answer[0] == 200
        first, *others = answer[2]
        assert "class" in first
        assert all(list(other) == ["error"] for other in others)
        assert others[1]["error"] == "the image is truncated: its data end too early"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON"),
        (b"\xff\xfe", "the body is not valid JSON"),
        (b"[" * 9_000, "the body is not valid JSON"),
        (b"[" * 9_000_000, "the JSON has the wrong form"),
        (b'{"image": ' + b"9" * 10_000 + b"}", "the body is not valid JSON"),
        (make_image_bytes(), "the body is not valid JSON"),
        (b'{"images": [' + b'"a",' * 3_000_000 + b'"a"]}', "the JSON has the wrong form"),
        (b"[]", "the JSON has the wrong form"),
        (b"null", "the JSON has the wrong form"),
        (b'{"image": 5}', "the JSON has the wrong form"),
        (b'{"images": []}', "the JSON has the wrong form"),
        (b'{"images": "aaaa"}', "the JSON has the wrong form"),
        (b'{"image": "aaaa", "images": ["aaaa"]}', "the JSON has the wrong form"),
        (encode_json(make_image_bytes(), top=3), "options in the query"),
        (b'{"image": "not base64!"}', "an image in the JSON is not base64"),
        (b'{"image": "aaa"}', "an image in the JSON is not base64"),
        (b'{"image": "\\ud800"}', "JSON"),
        (b'{"images": ["aaaa", 7]}', "an image in the JSON is not base64"),
        (b'{"images": ["aaaa", null]}', "an image in the JSON is not base64"),
        (b'{"images": [["aaaa"]]}', "an image in the JSON is not base64"),
        (b'{"images": {"0": "aaaa"}}', "the JSON has the wrong form"),
        (b'{"images": ' + b"[" * 65 + b"]" * 65 + b"}", "the body is not valid JSON"),
        (b'{"image": "aaaa", "image": "aaaa"}', "the body is not valid JSON"),
        (b'{"images": NaN}', "the body is not valid JSON"),
        (b'{"image": ""}', "the image is empty"),
    ],
)
def test_other_json_gets_400_and_a_sentence(server_port, body, message):
    status, _, found = send_request(server_port, body, headers=JSON_TYPE)
    assert status == 400
    assert message in found["error"]


def test_too_many_images_and_too_many_fields_are_refused_quickly(server_port):
    started_at = time.monotonic()
    many = [b"x"] * (MAX_REQUEST_IMAGES + 1)
    body, headers = make_form_of(*many)
    for answer in (
        send_request(server_port, body, headers=headers),
        send_request(server_port, encode_json(many), headers=JSON_TYPE),
    ):
        assert answer[0] == 413
        assert answer[2]["error"] == "the request has more than 64 images: send several requests"
    field = b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    form = field * 200_000 + b"--edge--\r\n"
    status, _, found = send_request(server_port, form, headers=headers)
    assert (status, found["error"]) == (400, "the form has more than 16 fields: send fewer")
    assert time.monotonic() - started_at < 3


def test_a_form_without_an_end_or_with_an_option_is_refused(server_port):
    image = make_image_bytes()
    body, headers = make_form_of(image, image)
    for end in (b"--edge--\r\n", b"--edge\r\n"):
        part = body.removesuffix(b"--edge--\r\n") + (b"" if end == b"--edge--\r\n" else end)
        status, _, found = send_request(server_port, part, headers=headers)
        assert status == 400
        assert "send the whole form, with at least one image" in found["error"]
    field = b'--edge\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n'
    status, _, found = send_request(server_port, field + body, headers=headers)
    assert (status, found["error"]) == (
        400,
        "the form has a field 'top': give it in the query, as in /predict?top=1",
    )
    other_field = field.replace(b"top", b"csrf-token")
    assert send_request(server_port, other_field + body, headers=headers)[0] == 200


def test_the_images_of_a_list_count_towards_the_queue(shared_engine):
    limits = ServerLimits(max_waiting_images=3)
    with run_server(PredictionService(shared_engine, "", limits)) as port:
        three, four = ([make_image_bytes()] * count for count in (3, 4))
        assert send_request(port, encode_json(three), headers=JSON_TYPE)[0] == 200
        status, _, found = send_request(port, encode_json(four), headers=JSON_TYPE)
        assert (status, found["error"]) == (
            413,
            "the request has more than 3 images: send several requests",
        )
        assert send_request(port, path="/health", method="GET")[2]["waiting"] == 0


def test_answers_below_the_threshold_are_marked_as_unsure(shared_engine):
    content = make_image_bytes()
    probability = compute_probability(shared_engine, content)
    for threshold, expected in ((0, None), (probability - 0.01, False), (probability + 0.01, True)):
        service = PredictionService(shared_engine, "", ServerLimits(), threshold=threshold)
        with run_server(service) as port:
            found = send_request(port, content)[2]
        assert found.get("unsure") is expected
        assert found["probability"] == pytest.approx(probability, abs=1e-5)


def test_an_answer_is_explained_only_if_the_query_asks_for_it(server_port):
    plain = send_request(server_port, make_image_bytes())[2]
    assert set(plain) == {"class", "probability", "top"}
    explained = send_request(server_port, make_image_bytes(), path="/predict?explain=1")[2]
    assert set(explained) == {*plain, "photo", "view", "heat"}


def test_the_class_of_the_heat_map_can_be_chosen():
    pytest.importorskip("captum")
    net, config = make_small_model()
    engine = build_torch_engine(net, config, "fp32")
    image, heats = make_image_bytes(), {}
    with run_server(
        PredictionService(engine, "", ServerLimits(), GradCamExplainer(net, config))
    ) as port:
        plain = send_request(port, image, path="/predict?explain=1")[2]
        assert plain["explained"] == plain["class"]
        for name in config.classes:
            path = f"/predict?explain=1&explain_class={quote(name)}"
            found = send_request(port, image, path=path)[2]
            assert (found["class"], found["explained"]) == (plain["class"], name)
            heats[name] = found["heat"]
        assert heats[plain["class"]] == plain["heat"]
        assert len(set(heats.values())) > 1
        for query, sentence in (
            ("explain=1&explain_class=zebra", "there is no class 'zebra': choose from "),
            ("explain=1&explain_class=", "there is no class '': choose from "),
            (f"explain_class={quote(name)}", "explain_class only applies with explain=1: add it"),
        ):
            status, _, found = send_request(port, image, path=f"/predict?{query}")
            assert (status, found["error"].startswith(sentence)) == (400, True), found


def test_a_probability_that_equals_the_threshold_is_not_below_it(shared_engine):
    def give_two_halves(pixels):
        scores = torch.full((len(pixels), len(shared_engine.config.classes)), -math.inf)
        scores[:, :2] = 0
        return scores

    engine = InferenceEngine("fixed", shared_engine.config, give_two_halves)
    with run_server(PredictionService(engine, "", ServerLimits(), threshold=0.5)) as port:
        found = send_request(port, make_image_bytes())[2]
    assert (found["probability"], found["unsure"]) == (0.5, False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_without_finite_probabilities_gets_500_and_a_sentence(shared_engine, value):
    def fail_on_black_images(pixels):
        scores = shared_engine.compute_scores(pixels).clone()
        scores[pixels.flatten(1).max(1).values == 0, 1] = value
        return scores

    black = BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    engine = InferenceEngine("odd", shared_engine.config, fail_on_black_images)
    with run_server(PredictionService(engine, "", ServerLimits())) as port:
        status, _, found = send_request(port, black.getvalue())
        assert status == 500
        assert found["error"].startswith("the probabilities for this image are not finite")
        assert send_request(port, make_image_bytes())[0] == 200
        images = [make_image_bytes(), black.getvalue()]
        status, _, (first, second) = send_request(port, encode_json(images), headers=JSON_TYPE)
        assert (status, "class" in first) == (200, True)
        assert second["error"].startswith("the probabilities for this image are not finite")


def test_an_unexpected_error_gets_500_as_json(shared_engine):
    def fail(pixels):
        raise RuntimeError("out of luck")

    engine = InferenceEngine("odd", shared_engine.config, fail)
    with run_server(PredictionService(engine, "", ServerLimits())) as port:
        status, headers, found = send_request(port, make_image_bytes())
        assert status == 500
        assert found == {"error": "the prediction failed: the server's log has the reason"}
        assert headers["x-content-type-options"] == "nosniff"
