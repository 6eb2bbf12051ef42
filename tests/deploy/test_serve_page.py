"""The server's page in a browser."""

import json
import re

import pytest
import torch

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("captum")

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from residua.cli.serve import build_page_variables
from residua.data.decode import decode_image, preprocess_image
from residua.data.images import Images
from residua.deploy.access import SECURITY_HEADERS
from residua.deploy.explain import GradCamExplainer
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.deploy.similar import SimilarImageIndex
from residua.report.html import render_template
from tests.browser import load_in_chromium, needs_chromium
from tests.deploy.live_server import (
    CLASSES,
    make_image_bytes,
    make_small_engine,
    make_small_model,
    run_server,
)

HARNESS_PAGE = """<!DOCTYPE html><title>waiting</title><body style="margin: 0">
<iframe id="frame" width="WIDTH" height="1500" style="border: 0" src="/"></iframe>
<script>
const frame = document.getElementById("frame");
frame.onload = async () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const image = await (await fetch("/image")).blob();
  const files = new view.DataTransfer();
  files.items.add(new view.File([image], "a.png"));
  page.getElementById("file").files = files.files;
  page.getElementById("file").dispatchEvent(new view.Event("change", {bubbles: true}));
  while (page.getElementById("found").hidden) await new Promise(done => setTimeout(done, 20));
  await new Promise(done => setTimeout(done, 300));
  const root = page.documentElement;
  const elements = [...page.querySelectorAll(".bars li, .album li, #view, #heat")];
  const shown = elements.filter(element => element.offsetHeight);
  document.title = JSON.stringify({
    content: root.scrollWidth, room: root.clientWidth, window: view.innerWidth,
    shown: shown.length, answer: page.getElementById("answer").textContent,
    status: page.getElementById("status").textContent,
    photo: [page.getElementById("view").naturalWidth, page.getElementById("view").naturalHeight],
    boxes: ["view", "heat"].map(id => page.getElementById(id).getBoundingClientRect().toJSON()),
  });
};
</script>"""


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_a_prediction_and_the_own_photograph_in_a_browser(tmp_path, monkeypatch):
    policy = SECURITY_HEADERS["content-security-policy"]
    assert "frame-ancestors 'none'" in policy  # the harness shows the page in a frame
    monkeypatch.setitem(
        SECURITY_HEADERS,
        "content-security-policy",
        policy.replace("rs 'none'", "rs 'self'; frame-src 'self'"),
    )
    engine, (net, config) = make_small_engine(), make_small_model()
    pixels = torch.stack(
        [preprocess_image(decode_image(make_image_bytes(seed)), config) for seed in range(8)]
    )
    similar_images = SimilarImageIndex(net, config, Images(pixels, torch.arange(8) % 3), CLASSES)
    page = render_template(
        "serve.html.j2", **build_page_variables(config, engine.description, 1000), similar=6
    )
    assert "http" not in page

    class ServiceWithHarness(PredictionService):
        """Also serves the harness page and the image that it uploads."""

        @property
        def application(self):
            application = super().application
            application.routes.append(
                Route(
                    "/image",
                    lambda request: Response(
                        make_image_bytes(3, size=(20, 12)), media_type="image/png"
                    ),
                )
            )
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
        )
    ) as port:
        for width in (390, 1280):
            document = load_in_chromium(
                f"http://127.0.0.1:{port}/{width}", tmp_path, "--virtual-time-budget=20000"
            )
            state = json.loads(re.search(r"<title>(\{.*\})</title>", document)[1])
            assert state["window"] == width
            assert state["content"] <= state["room"] <= width
            assert state["shown"] == 3 + 6 + 2
            assert state["answer"].startswith("Unsure, perhaps: ")
            assert state["answer"].removeprefix("Unsure, perhaps: ") in CLASSES
            assert state["status"].startswith(state["answer"])
            assert state["photo"] == [20, 12]  # not the 16 x 16 pixels of the network's input
            view, heat = state["boxes"]
            assert view["width"] / view["height"] == pytest.approx(20 / 12, rel=0.01)
            for side in ("left", "top", "width", "height"):  # the network sees all of the image
                assert heat[side] == pytest.approx(view[side], abs=1)
