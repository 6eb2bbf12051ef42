"""A local web server that can interrupt its responses."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def run_file_server():
    """Serve `files`, by path.

    `cuts` are the numbers of bytes after which the next responses are cut off, one for each.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), FileRequestHandler)
    server.files, server.cuts, server.ranges, server.length, server.asked = {}, [], True, True, []
    server.url = f"http://127.0.0.1:{server.server_port}"
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
        if site.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + site.cuts.pop(0) if site.cuts else None
        self.wfile.write(content[start:end])

    def log_message(self, *args):
        pass
