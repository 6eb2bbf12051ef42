"""A web server on this machine that fails in every way that a server of data fails."""

import re
import threading
import time
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

# of a request; there are "slow end", in three pieces, and "trickle", byte by byte, as well
FAULTS = ("stall", "drop", "500", "503", "truncate", "wrong range", "no range")


@contextmanager
def run_faulty_server(folder):
    """Serve the files of a folder, with ranges and ETags.

    `faults` are the faults of the next requests, one for each, "" for none; `asked` are the paths
    and ranges of all requests; `sent` is the number of bytes of all answers; `version` is a part of
    each ETag, or `versions` are those of the next answers, and None is no ETag; with a `status`,
    every request has this answer; `moved` are addresses by the path that refers to them; the path
    `script` stands for the file that its query names as `id`; each answer takes `delay` seconds,
    and `most_at_once` were under way.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), FaultyHandler)
    server.daemon_threads = True
    server.folder, server.faults, server.asked, server.sent = folder, [], [], 0
    server.version, server.status, server.lock = "1", 0, threading.Lock()
    server.is_over, server.moved, server.authorizations = threading.Event(), {}, []
    server.versions, server.script = None, ""
    server.connections, server.delay, server.at_once, server.most_at_once = set(), 0.0, 0, 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class FaultyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        site = self.server
        with site.lock:
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
        time.sleep(site.delay)
        self.handle_request_at_path()
        with site.lock:
            site.at_once -= 1

    def handle_request_at_path(self):
        site = self.server
        path = urlsplit(self.path).path  # of a request to a proxy, too
        site.authorizations.append(self.headers["Authorization"])
        site.connections.add(self.client_address)
        if path in site.moved:
            self.send_response(302)
            self.send_header("Location", site.moved[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with site.lock:
            site.asked.append((path, self.headers["Range"]))
            fault = site.faults.pop(0) if site.faults else ""
        if site.status or fault in ("500", "503"):
            self.send_error(site.status or int(fault))
            return
        if fault == "drop":
            self.close_connection = True
            return
        if path == site.script:
            path = dict(parse_qsl(urlsplit(self.path).query)).get("id", "")
        file = site.folder / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.answer(content, fault)

    def answer(self, content, fault):
        site, start, stop = self.server, 0, len(content)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if match and fault != "no range" and site.version != "no range":
            start, stop = int(match[1]), min(int(match[2]) + 1, len(content))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            moved = fault == "wrong range" and start + 1 < stop
            self.send_header("Content-Range", f"bytes {start + moved}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        version = next(site.versions) if site.versions else site.version
        if version is not None:
            self.send_header("ETag", f'"{md5(content).hexdigest()}-{version}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        body = content[start:stop]
        if fault in ("stall", "truncate"):
            body = body[: len(body) // 2]
            self.close_connection = True
        with site.lock:
            site.sent += len(body)
        try:
            self.write_slowly(body, {"slow end": 3, "trickle": len(body)}.get(fault, 1))
            deadline = time.monotonic() + 5
            while fault == "stall" and not site.is_over.is_set() and time.monotonic() < deadline:
                time.sleep(0.02)
        except OSError:
            pass

    def write_slowly(self, body, pieces):
        """Write a body in equal pieces, 0.3 seconds apart."""
        step = -(-len(body) // pieces) or 1
        for start in range(0, len(body), step):
            if start and self.server.is_over.wait(0.3):
                return
            self.wfile.write(body[start : start + step])
            self.wfile.flush()

    def log_message(self, *args):
        pass
