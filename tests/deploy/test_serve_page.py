"""The server's page in a browser."""

import json
import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("captum")

from starlette.responses import HTMLResponse
from starlette.routing import Route

from residua.cli.serve import build_page_variables
from residua.data.decode import decode_image, preprocess_image
from residua.data.images import Images
from residua.deploy.access import SECURITY_HEADERS
from residua.deploy.engine import build_torch_engine
from residua.deploy.example_images import load_example_images
from residua.deploy.explain import GradCamExplainer
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.deploy.similar import SimilarImageIndex
from residua.report.html import render_template
from tests.browser import load_in_chromium, needs_chromium
from tests.deploy.live_server import (
    CLASSES,
    make_image_bytes,
    make_small_model,
    run_server,
)

NOT_AN_IMAGE = (
    "b.txt: the image is not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG 2000 or PPM image."
)
HARNESS_PAGE = """<!DOCTYPE html><title>waiting</title><body style="margin: 0">
<iframe id="frame" width="WIDTH" height="1500" style="border: 0" src="/"></iframe>
<script>
const frame = document.getElementById("frame");
frame.onload = async () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const pause = () => new Promise(done => setTimeout(done, 20));
  const bytes = await (await fetch("/examples/1")).blob();
  const files = new view.DataTransfer();
  for (const [name, part] of [["a.png", bytes], ["b.txt", "no image"], ["=c.png", bytes]])
    files.items.add(new view.File([part], name));
  page.getElementById("file").files = files.files;
  page.getElementById("file").dispatchEvent(new view.Event("change", {bubbles: true}));
  while (page.querySelectorAll(".answer").length < 3) await pause();
  page.querySelector("[data-example='0']").click();
  while (page.querySelectorAll(".answer").length < 4) await pause();
  await new Promise(done => setTimeout(done, 300));
  const root = page.documentElement, card = page.querySelectorAll(".result")[1];
  const image = card.querySelector("img.view");
  const others = [...card.querySelectorAll(".bars button[aria-pressed='false']")];
  const chosen = others[0];
  const caption = card.querySelector("figcaption").textContent;
  const boxes = [image, card.querySelector(".heat")].map(part => part.getBoundingClientRect());
  const status = page.getElementById("status").textContent;
  chosen.click();
  while (card.querySelector("figcaption").textContent === caption) await pause();
  const pressed = [...card.querySelectorAll(".bars button[aria-pressed='true']")];
  document.title = JSON.stringify({
    chosen: chosen.textContent,
    pressed: pressed.map(button => button.textContent),
    explained: card.querySelector("figcaption").textContent,
    others: others.length,
    views: card.querySelectorAll(".view").length,
    content: root.scrollWidth, room: root.clientWidth, window: view.innerWidth,
    names: [...page.querySelectorAll(".file")].map(file => file.textContent),
    answers: [...page.querySelectorAll(".answer")].map(answer => answer.textContent),
    shown: card.querySelectorAll(".bars li, .album li").length,
    count: page.getElementById("count").textContent,
    status, caption,
    alt: image.alt,
    photo: [image.naturalWidth, image.naturalHeight],
    boxes: boxes.map(box => box.toJSON()),
    unseen: card.querySelector(".unseen").style.clipPath,
  });
};
</script>"""


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_each_file_s_answer_over_the_own_photograph_in_a_browser(
    tmp_path, monkeypatch
):
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "frame-ancestors 'none'" in policy  # the harness shows the page in a frame
    monkeypatch.setitem(
        SECURITY_HEADERS,
        "content-security-policy",
        policy.replace("rs 'none'", "rs 'self'; frame-src 'self'"),
    )
    net, config = make_small_model()
    config = replace(config, resize=24)
    engine = build_torch_engine(net, config, "fp32")
    for name, size in (("a.png", (40, 30)), ("b.png", (20, 12))):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(make_image_bytes(3, size=size))
    examples = load_example_images(tmp_path / "images", config, ServerLimits())
    pixels = torch.stack(
        [preprocess_image(decode_image(make_image_bytes(seed)), config) for seed in range(8)]
    )
    similar_images = SimilarImageIndex(net, config, Images(pixels, torch.arange(8) % 3), CLASSES)
    page = render_template(
        "serve.html.j2",
        **build_page_variables(config, engine.description, 10_000, 1.0, examples, 6),
    )
    assert "http" not in page
    assert page.count("GET /health") == 1

    class ServiceWithHarness(PredictionService):
        """Also serves the harness page."""

        @property
        def application(self):
            application = super().application
            application.routes.append(
                Route(
                    "/{width:int}",
                    lambda request: HTMLResponse(
                        HARNESS_PAGE.replace("WIDTH", str(request.path_params["width"]))
                    ),
                )
            )
            return application

    with run_server(
        ServiceWithHarness(
            engine,
            page,
            ServerLimits(),
            GradCamExplainer(net, config),
            similar_images,
            threshold=1.0,
            examples=examples,
        )
    ) as port:
        for width in (390, 1280):
            document = load_in_chromium(
                f"http://127.0.0.1:{port}/{width}", tmp_path, "--virtual-time-budget=20000"
            )
            state = json.loads(re.search(r"<title>(\{.*\})</title>", document)[1])
            assert state["window"] == width
            assert state["content"] <= state["room"] <= width
            assert state["names"] == ["a.png", "a.png", NOT_AN_IMAGE, "=c.png"]
            example, first, second, third = state["answers"]
            assert second == "No answer"
            assert first == third
            for answer in (example, first):
                assert answer.startswith("Unsure, perhaps: ")
                assert answer.removeprefix("Unsure, perhaps: ") in CLASSES
            assert state["count"] == "4 of 4 images"
            assert state["status"].startswith(f"a.png: {example}, ")
            assert state["shown"] == 3 + 6
            assert state["photo"] == [20, 12]  # not the 16 x 16 pixels of the network's input
            assert state["alt"] == "Your image a.png"
            assert "it sees the middle, 27 % of the image" in state["caption"]
            answer = first.removeprefix("Unsure, perhaps: ")
            assert state["caption"].startswith(f"Brighter: speaks for {answer} (Grad-CAM).")
            assert state["explained"].startswith(f"Brighter: speaks for {state['chosen']} (Grad")
            assert state["chosen"] != answer
            assert (state["pressed"], state["others"]) == ([state["chosen"]], len(CLASSES) - 1)
            assert state["views"] == 1
            photo, heat = state["boxes"]
            assert photo["width"] / photo["height"] == pytest.approx(20 / 12, rel=0.01)
            # Of the image, resized to 40 x 24 pixels, the network sees 16 x 16.
            for start, side, pixels, seen_from in (
                ("left", "width", 40, 12),
                ("top", "height", 24, 4),
            ):
                offset = photo[side] * seen_from / pixels
                assert heat[start] == pytest.approx(photo[start] + offset, abs=1)
                assert heat[side] == pytest.approx(photo[side] * 16 / pixels, abs=1)
            assert re.findall(r"[\d.]+% [\d.]+%", state["unseen"])[5:9] == [
                "30% 16.6667%",
                "30% 83.3333%",
                "70% 83.3333%",
                "70% 16.6667%",
            ]


def test_the_page_says_the_share_of_right_images_as_the_other_pages_do():
    """The interval is that of R's prop.test(9, 16, correct=FALSE)."""
    _, config = make_small_model()
    facts = build_page_variables(replace(config, test_error=7 / 16, test_images=16), "torch", 9)
    assert facts["facts"] == (
        "It runs by torch; 56.2 % right on the test images (95 % interval 33.2 to 76.9)."
    )
    six = replace(config, test_error=7 / 16, test_images=16, test_views="six")
    assert "% right on the test images with six views (95 % interval" in str(
        build_page_variables(six, "torch", 9)["facts"]
    )
