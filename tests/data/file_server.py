"""A local web server that can interrupt its responses."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def run_file_server(tls=None):
    """Serve `files`, by path.

    `cuts` are the numbers of bytes after which the next responses are cut off, one for each;
    `moved` are addresses by the path that refers to them; `pause` is called in the middle of each
    file.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), FileRequestHandler)
    server.files, server.cuts, server.ranges, server.length, server.asked = {}, [], True, True, []
    server.headers, server.moved, server.authorizations = {}, {}, []
    server.pause = lambda: None
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class FileRequestHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.asked.append((self.path, self.headers["Range"]))
        site.authorizations.append(self.headers["Authorization"])
        if self.path in site.moved:
            self.send_moved()
            return
        if self.path not in site.files:
            self.send_error(404)
            return
        content, start = site.files[self.path], 0
        if site.ranges and (range_ := self.headers["Range"]):
            start, last = re.fullmatch(r"bytes=(\d+)-(\d*)", range_).groups()
            start, content = int(start), content[: int(last) + 1] if last else content
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        for name, value in site.headers.items():
            self.send_header(name, value)
        if site.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + site.cuts.pop(0) if site.cuts else None
        middle = (start + len(content)) // 2 if end is None else end
        self.wfile.write(content[start:middle])
        self.wfile.flush()
        site.pause()
        self.wfile.write(content[middle:end])

    def send_moved(self):
        self.send_response(302)
        self.send_header("Location", self.server.moved[self.path])
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self):
        if self.path in self.server.moved:
            self.send_moved()
            return
        self.send_response(200 if self.path in self.server.files else 404)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass
