"""Which hosts and origins the server answers, and the headers of all its answers."""

import re

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.cli.main import main
from residua.deploy.access import AccessRules, describe_refused_host, parse_allowed_origin
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from residua.errors import UsageError
from residua.net.model_folder import save_pretrained
from tests.deploy.live_server import (
    make_image_bytes,
    make_small_engine,
    make_small_model,
    read_metrics,
    run_server,
    send_raw_bytes,
    send_request,
)

RULES = AccessRules(hosts=("photos.example",), origins=("https://gallery.example",))
LIMITS = ServerLimits(max_body_bytes=100_000, max_image_pixels=10_000, timeout_seconds=0.5)

GOOD_HOSTS = (
    *("localhost", "LOCALHOST:80", "localhost.:PORT", "photos.example", "Photos.Example:443"),
    *("127.0.0.1", "127.0.0.1:PORT", "[::1]:PORT", "[::1]"),
)
BAD_HOSTS = (
    *("other.example", "localhost.other.example", "photos.example.other.example", "10.0.0.5"),
    *("xphotos.example", "user@localhost", "localhost:80:80", "localhost,other.example"),
    *("[::2]", "[localhost", "2130706433", "0.0.0.0", "127.0.0.1.nip.example", "*", ""),
    *("x" * 5000, "\xe9"),
)


@pytest.fixture(scope="module")
def server_port():
    """The port of a server that allows one more host and one more origin."""
    with run_server(PredictionService(make_small_engine(), "page", LIMITS, access=RULES)) as port:
        yield port


def fetch_status(port, host, path="/health", method="GET", body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return send_request(port, body, path, {"Host": host, **headers}, method)[0]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_local_names_and_allowed_hosts_are_answered(server_port, host):
    assert fetch_status(server_port, host.replace("PORT", str(server_port))) == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/predict?similar=24", "POST"), ("/metrics", "GET")]
)
def test_other_hosts_get_421_and_a_sentence_everywhere(server_port, host, path, method):
    body = make_image_bytes() if method == "POST" else None
    status, _, found = send_request(server_port, body, path, {"Host": host}, method)
    assert status == 421
    ways = "(start .* --allow-host|it is neither a name nor an address; send)"
    assert re.match("the host .{1,100} is not allowed: " + ways, found["error"])


def test_a_request_without_a_host_is_refused(server_port):
    answer = send_raw_bytes(server_port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 421")


def test_the_address_of_the_connection_and_the_given_host_are_allowed():
    rules = AccessRules(hosts=("myhost",))
    assert rules.allows_host("192.0.2.7:8000", "192.0.2.7")
    assert rules.allows_host("192.0.2.7", "::ffff:192.0.2.7")  # a listener of both families
    assert rules.allows_host("[2001:DB8:0::1]:8000", "2001:db8::1")
    assert rules.allows_host("MYHOST:1", "192.0.2.7")
    assert not rules.allows_host("192.0.2.8", "192.0.2.7")
    assert not rules.allows_host("evil.example", "192.0.2.7")
    assert not rules.allows_host("", "")


def test_posts_of_other_origins_get_403_and_a_sentence(server_port):
    own = f"http://127.0.0.1:{server_port}"
    post = {"path": "/predict", "method": "POST", "body": make_image_bytes()}
    host = f"127.0.0.1:{server_port}"
    for origin in (own, own.upper().replace("HTTP", "http"), "https://gallery.example"):
        assert fetch_status(server_port, host, **post, Origin=origin) == 200, origin
    for origin in (
        "null",
        "https://other.example",
        f"http://localhost:{server_port}",  # another origin than 127.0.0.1
        f"http://127.0.0.1:{server_port + 1}",
        "http://127.0.0.1",
        f"{own}.other.example",
        "http://gallery.example",
        "https://gallery.example:444",
        f"file://{host}",
        "",
    ):
        before = read_metrics(server_port)['residua_refused_total{reason="origin"}']
        status, headers, found = send_request(
            server_port, post["body"], "/predict", {"Host": host, "Origin": origin}
        )
        assert status == 403, origin
        assert "may not send requests: " in found["error"]
        advice = re.search("start the server with --allow-origin (.*)", found["error"])
        is_possible = origin.startswith("http") and ".other" not in origin
        assert bool(advice) == is_possible, origin
        if advice:  # the option can allow it
            assert parse_allowed_origin(advice[1]) == origin.lower()
        assert "access-control-allow-origin" not in headers
        assert read_metrics(server_port)['residua_refused_total{reason="origin"}'] == before + 1


def test_a_page_without_a_site_is_told_to_open_from_a_web_server(server_port):
    for origin in ("null", "NULL"):
        status, _, found = send_request(server_port, make_image_bytes(), headers={"Origin": origin})
        assert (status, found["error"]) == (
            403,
            "pages of the origin null may not send requests: browsers send null for a page that "
            "was opened as a file or is in a sandboxed frame, and it cannot be allowed by name; "
            "open the page from a web server, and allow that server's origin",
        )
    _, _, found = send_request(
        server_port, make_image_bytes(), headers={"Origin": "chrome-extension://abc"}
    )
    assert "--allow-origin can allow only http and https origins; open the page" in found["error"]


@pytest.mark.parametrize("host", ["", "*", "a b", "-x", "photos.example:x", "other.example"])
def test_a_refused_host_is_offered_the_option_only_if_it_takes_it(host):
    advice = re.search("--allow-host (.*)", describe_refused_host(host))
    assert bool(advice) == (host == "other.example")


def test_allowed_origins_can_read_answers_and_errors_and_others_cannot(server_port):
    for body, status in ((make_image_bytes(), 200), (b"no image", 415)):
        answer = send_request(server_port, body, headers={"Origin": "https://gallery.example"})
        assert answer[0] == status
        assert answer[1]["access-control-allow-origin"] == "https://gallery.example"
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for origin, status in (("https://gallery.example", 200), ("https://other.example", 400)):
        headers = {"Origin": origin, **preflight}
        content = send_request(server_port, None, "/predict", headers, "OPTIONS")
        assert content[0] == status
        allowed = content[1].get("access-control-allow-origin")
        assert allowed == (origin if status == 200 else None)
    health = send_request(server_port, None, "/health", {"Origin": "https://other.example"}, "GET")
    assert "access-control-allow-origin" not in health[1]


@pytest.mark.parametrize("origins", [(), ("https://gallery.example",)])
def test_a_preflight_of_another_origin_allows_nothing(origins):
    rules = AccessRules(origins=origins)
    with run_server(PredictionService(make_small_engine(), "", LIMITS, access=rules)) as port:
        for origin in ("https://other.example", "null", "https://gallery.example.x"):
            headers = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            }
            status, answered, _ = send_request(port, None, "/predict", headers, "OPTIONS")
            assert status == (400 if origins else 405)
            assert "access-control-allow-origin" not in answered
            status, answered, _ = send_request(port, make_image_bytes(), headers={"Origin": origin})
            assert status == 403
            assert "access-control-allow-origin" not in answered


def test_allowed_pages_can_read_when_to_try_again(server_port):
    headers = {"Origin": "https://gallery.example"}
    answer = send_request(server_port, make_image_bytes(), headers=headers)
    assert answer[1]["access-control-expose-headers"] == "Retry-After"


def test_a_star_allows_every_origin_but_not_every_host():
    rules = AccessRules(origins=("*",))
    with run_server(PredictionService(make_small_engine(), "", LIMITS, access=rules)) as port:
        answer = send_request(port, make_image_bytes(), headers={"Origin": "https://any.example"})
        assert (answer[0], answer[1]["access-control-allow-origin"]) == (200, "*")
        assert fetch_status(port, "any.example") == 421


def test_every_answer_has_the_security_headers(server_port):
    image = make_image_bytes()
    answers = {
        "page": send_request(server_port, None, "/", method="GET"),
        "prediction": send_request(server_port, image),
        "health": send_request(server_port, None, "/health", method="GET"),
        "metrics": send_request(server_port, None, "/metrics", method="GET"),
        "no such page": send_request(server_port, None, "/nowhere", method="GET"),
        "method": send_request(server_port, None, "/predict", method="GET"),
        "empty": send_request(server_port, b""),
        "too large": send_request(server_port, bytes(200_000)),
        "no image": send_request(server_port, b"no image"),
        "host": send_request(server_port, image, headers={"Host": "other.example"}),
        "origin": send_request(server_port, image, headers={"Origin": "null"}),
    }
    statuses = [200, 200, 200, 200, 404, 405, 400, 413, 415, 421, 403]
    assert [answer[0] for answer in answers.values()] == statuses
    for name, (_, headers, _) in answers.items():
        assert headers["x-content-type-options"] == "nosniff", name
        assert headers["referrer-policy"] == "no-referrer", name
        assert "frame-ancestors 'none'" in headers["content-security-policy"], name
        assert "default-src 'none'" in headers["content-security-policy"], name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow-host", "http://photos.example"], "'http://photos.example' is not a host"),
        (["--allow-host", "photos.example:80"], "'photos.example:80' is not a host"),
        (["--allow-host", "*"], "'*' is not a host"),
        (["--allow-origin", "photos.example"], "'photos.example' is not an origin"),
        (["--allow-origin", "https://photos.example/"], "is not an origin"),
        (["--allow-origin", "null"], "null names no site: browsers send null for a page that was"),
        (["--threshold", "60"], "--unsure-below 60.0 is invalid: give a probability from 0 to 1"),
        (["--unsure-below", "-0.1"], "--unsure-below -0.1 is invalid: give a probability"),
        (["--head-timeout", "0"], "--head-timeout must be positive, got 0.0"),
        (["--max-total-bytes", "10"], "--max-total-bytes 10 is less than --max-bytes 20000000"),
    ],
)
def test_invalid_options_are_refused_before_the_model_is_loaded(tmp_path, capsys, options, message):
    assert main(["serve", str(tmp_path / "nothing"), "--port", "0", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_options_reach_the_service(tmp_path, monkeypatch):
    save_pretrained(*make_small_model(), tmp_path / "model")
    services = []
    monkeypatch.setattr(
        "residua.deploy.serve.serve_until_stopped",
        lambda service, listener, on_listening: services.append(service),
    )
    options = ["--allow-host", "a.example", "B.example", "--allow-origin", "https://C.example"]
    options += [
        "--allow-origin",
        "https://d.example",
        "http://e.example",
        "--threshold",
        "0.6",
        "--head-timeout",
        "3",
        "--timeout",
        "4",
    ]
    options += ["--max-bytes", "300000000", "--max-pixels", "7", "--max-waiting", "8"]
    command = ["serve", str(tmp_path / "model"), "--port", "0", "--engine", "torch"]
    assert main([*command, *options]) == 0
    assert main([*command, "--max-bytes", "5", "--max-total-bytes", "6"]) == 0
    assert main([*command, "--unsure-below", "0.7"]) == 0
    first, second, third = services
    assert first.access == AccessRules(
        ("127.0.0.1", "a.example", "B.example"),
        ("https://c.example", "https://d.example", "http://e.example"),
    )
    assert (first.threshold, second.threshold, third.threshold) == (0.6, 0, 0.7)
    for service, unsure_below in ((first, 0.6), (second, 0.5), (third, 0.7)):
        assert f"unsureBelow = {unsure_below};" in service.page_html
    assert first.limits == ServerLimits(300_000_000, 7, 8, 4.0, 300_000_000, 3.0)
    assert second.limits == ServerLimits(5, max_total_bytes=6)


def test_an_origin_is_stored_as_browsers_send_it():
    assert parse_allowed_origin("HTTPS://Photos.Example:8443") == "https://photos.example:8443"
    assert parse_allowed_origin("http://[::1]:80") == "http://[::1]:80"
    with pytest.raises(UsageError):
        parse_allowed_origin("http://[")


def test_the_metrics_count_batches_by_powers_of_two(server_port):
    send_request(server_port, make_image_bytes())
    names = [name for name in read_metrics(server_port) if "batch" in name and "bucket" in name]
    bounds = [re.search('le="(.*)"', name)[1] for name in names]
    assert bounds == ["1", "2", "4", "8", "16", "32", "+Inf"]
