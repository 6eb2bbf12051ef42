"""A small Hugging Face hub on this machine, for the real huggingface_hub with HF_ENDPOINT.

It speaks as much of the hub's protocol as the library needs to create a repository, to upload files
in one commit (regular ones and those of git-lfs, not xet), to list a repository and to download.
Files that others are to download, `OWNER/NAME/resolve/REVISION/FILE`, are added by `add_files`;
`plain_files` are served by their path alone, as a mirror does.  All answers understand ranges.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".onnx", ".h5", ".msgpack")
LFS_VERSION = "https://git-lfs.github.com/spec/v1"
HUB_VARIABLES = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass
class HubFile:
    content: bytes
    is_lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self):
        """The id that git gives the file or, for git-lfs, the file that points to it."""
        size = len(self.content)
        pointer = f"version {LFS_VERSION}\noid sha256:{self.sha256}\nsize {size}\n"
        content = pointer.encode() if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass
class HubRepository:
    name: str
    is_private: bool = False
    commits: dict = field(default_factory=dict)  # by id: {path: HubFile}
    messages: list = field(default_factory=list)

    def __post_init__(self):
        self.commit({}, "initial commit")

    @property
    def head(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        return self.commits[self.head]

    def commit(self, new_files, message):
        files = {**(self.files if self.commits else {}), **new_files}
        text = f"{self.name} {len(self.commits)} {sorted((p, f.etag) for p, f in files.items())}"
        self.commits[hashlib.sha1(text.encode()).hexdigest()] = files
        self.messages.append(message)
        return self.head

    def resolve_revision(self, revision):
        known = {"main": self.head, **{commit: commit for commit in self.commits}}
        return known.get(revision)


class LoopbackHub(ThreadingHTTPServer):
    """The hub's server.

    url           the value of HF_ENDPOINT, or of a mirror
    tokens        the owners in whose name each token may write
    repositories  by OWNER/NAME
    plain_files   contents by path, e.g. "/resnet18-f37072fd.pth"
    asked         (method, path, range) of each request
    cuts          numbers of bytes after which the next downloads are cut off, one for each
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tokens = {"hf_writer": ["someone"]}
        self.repositories, self.plain_files, self.objects = {}, {}, {}
        self.asked, self.cuts = [], []

    def add_files(self, name, files):
        """Add files, contents by path, to the repository `name`; returns the commit's id."""
        repository = self.repositories.setdefault(name, HubRepository(name))
        new = {path: HubFile(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()}
        self.objects |= {file.sha256: file.content for file in new.values() if file.is_lfs}
        return repository.commit(new, "added")

    def variables(self, cache_folder, token="hf_writer"):
        """Environment variables of a process that is to use this hub and no other."""
        others = {"HF_TOKEN": token} if token else {}
        return HUB_VARIABLES | {"HF_ENDPOINT": self.url, "HF_HOME": str(cache_folder)} | others


@contextmanager
def run_loopback_hub():
    server = LoopbackHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Refusal(Exception):
    """Another answer than the one asked for: status, message, X-Error-Code."""


class HubRequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, self.headers["Range"]))
        for method, pattern, function in ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, self.path)):
                try:
                    function(self, *match.groups())
                except Refusal as refusal:
                    self.send_refusal(*refusal.args)
                return

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send_json(self, value, status=200):
        self.send_content(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def send_refusal(self, status, message, code=None):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send_content(json.dumps({"error": message}).encode(), status, headers)

    def send_content(self, content, status=200, headers=None):
        """Send content, or the range of it that was asked for; a cut ends the connection."""
        end, headers = len(content), {"Accept-Ranges": "bytes", **(headers or {})}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        start = int(asked[1]) if asked and status == 200 else 0
        if asked and status == 200:
            end = min(int(asked[2]) + 1, end) if asked[2] else end
            status = 206 if start < len(content) else 416
            span = f"{start}-{end - 1}" if status == 206 else "*"
            headers["Content-Range"] = f"bytes {span}/{len(content)}"
        self.send_response_only(status)  # which, unlike send_response, prints no line
        for name, value in (headers | {"Content-Length": str(max(end - start, 0))}).items():
            self.send_header(name, value)
        self.end_headers()
        is_download = status in (200, 206) and "application/json" not in headers.values()
        if self.command != "HEAD":
            cut = self.server.cuts.pop(0) if is_download and self.server.cuts else None
            self.wfile.write(content[start:end][:cut])
            self.close_connection |= cut is not None

    @property
    def owners(self):
        """The owners in whose name the request may write; None without a valid token."""
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        return self.server.tokens.get(token)

    def require_right_to_write(self, owner):
        if self.owners is None:
            raise Refusal(401, "Invalid username or password.")
        if owner not in self.owners:
            raise Refusal(403, f"You don't have the rights to create a model under {owner}")

    def find_repository(self, name, to_write=False):
        repository, owner = self.server.repositories.get(name), name.partition("/")[0]
        if repository is None or (repository.is_private and owner not in (self.owners or ())):
            status = 401 if self.owners is None else 404  # a stranger learns nothing
            raise Refusal(status, "Repository not found", "RepoNotFound")
        if to_write:
            self.require_right_to_write(owner)
        return repository

    def create_repository(self):
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        self.require_right_to_write(asked["organization"])
        if name in self.server.repositories:
            raise Refusal(409, "You already created this model repo")
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[name] = HubRepository(name, is_private)
        self.send_json({"url": f"{self.server.url}/{name}", "name": name})

    def validate_card(self):
        """Refuse names of data sets that the hub refuses in a model card."""
        content, valid = json.loads(self.body)["content"], r"([\w-]+/)?[\w.-]+"
        names = re.findall(r'"dataset": \{"type": "([^"]*)"', content)
        wrong = [name for name in names if not re.fullmatch(valid, name, re.ASCII)]
        errors = [{"message": f"dataset.type with value {name!r} fails"} for name in wrong]
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def choose_upload_modes(self, name):
        repository = self.find_repository(name, to_write=True)
        files = []
        for file in json.loads(self.body)["files"]:
            old, is_lfs = repository.files.get(file["path"]), file["path"].endswith(LFS_SUFFIXES)
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            files.append({"path": file["path"], "oid": old.etag if old else None, **mode})
        self.send_json({"files": files})

    def start_lfs_upload(self, name):
        self.find_repository(name, to_write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{item['oid']}"}
            is_new = item["oid"] not in self.server.objects
            objects.append(item | ({"actions": {"upload": upload}} if is_new else {}))
        self.send_json({"transfer": "basic", "objects": objects})

    def receive_lfs_object(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content has another sum")
        self.server.objects[oid] = self.body
        self.send_json({})

    def commit_files(self, name):
        repository = self.find_repository(name, to_write=True)
        header, *changes = map(json.loads, self.body.splitlines())
        files = {}
        for change in changes:
            value = change["value"]
            if change["key"] == "lfsFile":
                files[value["path"]] = HubFile(self.server.objects[value["oid"]], True)
            else:
                files[value["path"]] = HubFile(base64.b64decode(value["content"]), False)
        commit = repository.commit(files, header["value"]["summary"])
        address = f"{self.server.url}/{name}/commit/{commit}"
        self.send_json({"commitOid": commit, "commitUrl": address})

    def describe_repository(self, name, revision="main"):
        repository = self.find_repository(name)
        commit = repository.resolve_revision(revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits.get(commit, ())]
        facts = {"id": name, "sha": commit, "private": repository.is_private}
        self.send_json(facts | {"siblings": siblings})

    def list_files(self, name, revision):
        repository = self.find_repository(name)
        entries = []
        for path, file in repository.commits[repository.resolve_revision(revision)].items():
            size = {"size": len(file.content)}
            lfs = {"lfs": size | {"oid": file.sha256, "pointerSize": 130}} if file.is_lfs else {}
            entries.append({"type": "file", "path": path, "oid": file.blob_id} | size | lfs)
        self.send_json(entries)

    def send_file(self, name, revision, path):
        repository = self.find_repository(name)
        commit = repository.resolve_revision(revision)
        file = repository.commits.get(commit, {}).get(path)
        if file is None:
            code = "EntryNotFound" if commit else "RevisionNotFound"
            raise Refusal(404, f"{code}: {path}", code)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"'}
        if not file.is_lfs:
            self.send_content(file.content, 200, headers)
            return
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        # as with the hub's store, another host: the library follows redirects to its own hub alone
        location = {"Location": f"http://localhost:{self.server.server_port}/lfs/{file.sha256}"}
        self.send_content(b"", 302, headers | linked | location)

    def send_lfs_object(self, oid):
        self.send_content(self.server.objects[oid], 200, {"ETag": f'"{oid}"'})

    def send_plain_file(self, path):
        if path not in self.server.plain_files:
            raise Refusal(404, "no such file")
        self.send_content(self.server.plain_files[path])


REPOSITORY = r"([\w.-]+/[\w.-]+)"
ROUTES = (  # methods, path, method of the handler
    ("POST", "/api/repos/create", HubRequestHandler.create_repository),
    ("POST", "/api/validate-yaml", HubRequestHandler.validate_card),
    ("POST", f"/api/models/{REPOSITORY}/preupload/main", HubRequestHandler.choose_upload_modes),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", HubRequestHandler.start_lfs_upload),
    ("POST", f"/api/models/{REPOSITORY}/commit/main", HubRequestHandler.commit_files),
    ("PUT", r"/lfs/(\w{64})", HubRequestHandler.receive_lfs_object),
    ("GET HEAD", r"/lfs/(\w{64})", HubRequestHandler.send_lfs_object),
    ("GET", f"/api/models/{REPOSITORY}(?:/revision/(.+))?", HubRequestHandler.describe_repository),
    ("GET", f"/api/models/{REPOSITORY}/tree/([^/]+)", HubRequestHandler.list_files),
    ("GET HEAD", f"/{REPOSITORY}/resolve/([^/]+)/(.+)", HubRequestHandler.send_file),
    ("GET HEAD", "(/.*)", HubRequestHandler.send_plain_file),
)
