"""The server's page, in a browser."""

import json
import re

import pytest
import torch

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("captum")

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from residua.cli.serve import words
from residua.data.image import decode, prepared
from residua.data.read import Images
from residua.deploy.explain import Explainer
from residua.deploy.service import Limits, Service
from residua.deploy.similar import Album
from residua.report.html import rendered
from tests.browser import needs_chromium, shown
from tests.deploy.serving import CLASSES, photograph, running, small, small_engine

HARNESS = """<!DOCTYPE html><title>waiting</title><body style="margin: 0">
<iframe id="frame" width="WIDTH" height="1500" style="border: 0" src="/"></iframe>
<script>
const frame = document.getElementById("frame");
frame.onload = async () => {
  const page = frame.contentDocument, view = frame.contentWindow, image = await (await fetch("/image")).blob();
  const files = new view.DataTransfer();
  files.items.add(new view.File([image], "a.png"));
  page.getElementById("file").files = files.files;
  page.getElementById("file").dispatchEvent(new view.Event("change", {bubbles: true}));
  while (page.getElementById("found").hidden) await new Promise(done => setTimeout(done, 20));
  await new Promise(done => setTimeout(done, 300));
  const root = page.documentElement;
  const shown = [...page.querySelectorAll(".bars li, .album li, #view, #heat")].filter(e => e.offsetHeight);
  document.title = JSON.stringify({
    content: root.scrollWidth, room: root.clientWidth, window: view.innerWidth, shown: shown.length,
    answer: page.getElementById("answer").textContent, said: page.getElementById("status").textContent,
  });
};
</script>"""


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_a_prediction_in_a_browser(tmp_path):
    engine, (net, config) = small_engine(), small()
    pixels = torch.stack([prepared(decode(photograph(seed)), config) for seed in range(8)])
    album = Album(net, config, Images(pixels, torch.arange(8) % 3), CLASSES)
    page = rendered("serve.html.j2", **words(config, engine.name, 1000), similar=6)
    assert "http" not in page

    class Harnessed(Service):
        @property
        def application(self):
            made = super().application
            made.routes.append(Route("/image", lambda request: Response(photograph(3, size=(20, 12)), media_type="image/png")))
            made.routes.append(
                Route("/{width:int}", lambda request: HTMLResponse(HARNESS.replace("WIDTH", str(request.path_params["width"]))))
            )
            return made

    with running(Harnessed(engine, page, Limits(), Explainer(net, config), album)) as port:
        for width in (390, 1280):
            document = shown(f"http://127.0.0.1:{port}/{width}", tmp_path, "--virtual-time-budget=20000")
            found = json.loads(re.search(r"<title>(\{.*\})</title>", document)[1])
            assert found["window"] == width
            assert found["content"] <= found["room"] <= width
            assert found["shown"] == 3 + 6 + 2
            assert found["answer"] in CLASSES
            assert found["said"].startswith(found["answer"])
