"""A small Hugging Face Hub on loopback, for the real `huggingface_hub` client: its HTTP API over a folder.

It knows model repositories: create, refs, branches, tags, preupload, LFS objects, commits, trees, files; with
`xet=True` files are stored by Xet, see `hub_xet`. The data set `a/b` is the repository `datasets--a/b`. What a `Fault`
says goes wrong. By hand: `python -m tests.hub.hub_server FOLDER`, and `HF_ENDPOINT` is what it prints.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub.hub_store import HubError, Store
from tests.hub.hub_xet import XetStorage

TOKENS = {"writer-token": "write", "reader-token": "read"}
LFS_SUFFIXES = (".safetensors", ".onnx", ".png")  # larger files, too, wherever they are more than 10 MB
PAGE = 7  # entries of a tree a page, so that there are several


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method to a path that matches.

    `do`: `"status"` answers with `status` and `headers`; `"drop"` reads half the body and cuts the connection;
    `"lose"` does what was asked and cuts the connection; `"stall"` says nothing for `seconds`; `"cut"` answers with
    half the body; `"flip"` changes a byte of the answer's body; `"forget"` leaves the last file out of a commit.
    """

    method: str
    path: str
    do: str = "status"
    status: int = 500
    headers: dict = field(default_factory=dict)
    seconds: float = 0
    times: int = 1


class Hub(ThreadingHTTPServer):
    """`with Hub(folder) as hub:` serves at `hub.url`; `hub.requests` lists `(method, path)`."""

    daemon_threads = True

    def __init__(self, folder, port=0, xet=False):
        super().__init__(("127.0.0.1", port), Handler)
        self.xet = XetStorage(f"{folder}/xet") if xet else None
        self.store, self.faults, self.requests, self.times = Store(folder), [], [], []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # clients cut connections, as they may
            super().handle_error(request, client_address)

    def fault(self, method, path):
        with self.store.lock:
            self.requests.append((method, path))
            self.times.append((method, path, time.monotonic()))
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one(self):
        self.route, self.query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        self.current = fault = self.server.fault(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.do == "drop":
            self.rfile.read(length // 2)
            return self.cut()
        self.body = self.rfile.read(length)
        if fault is not None and fault.do == "stall":
            time.sleep(fault.seconds)
            return self.cut()
        try:
            if fault is not None and fault.do == "status":
                self.answer_headers = fault.headers
                raise HubError(fault.status, "this was asked for by a test")
            self.answer_headers = {}
            with self.server.store.lock:
                status, headers, content = self.dispatch()
        except HubError as error:
            status, content = error.status, json.dumps({"error": str(error), **error.more}).encode()
            headers = {"X-Error-Message": str(error), "Content-Type": "application/json", **self.answer_headers}
            headers |= {"X-Error-Code": error.code} if error.code else {}
        if fault is not None and fault.do == "lose":
            return self.cut()
        if fault is not None and fault.do == "flip" and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            half = fault is not None and fault.do == "cut"
            self.wfile.write(content[: len(content) // 2] if half else content)
            if half:
                self.cut()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def cut(self):
        """Resets the connection, as a network that breaks does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.connection.close()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):  # the connection was cut
            super().finish()

    def json(self, value, status=200, **headers):
        return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()

    def role(self):
        """What the token may do.

        Raises:
            HubError: 401, it is not known.
        """
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def repo(self, repo_id, write=False):
        repo, role = self.server.store.load(repo_id), self.role()
        if repo["private"] and role is None:
            raise HubError(401, "Repository not found", "RepoNotFound")
        if write and role != "write":
            raise HubError(403 if role else 401, "You don't have the rights to write to this repository")
        return repo

    def dispatch(self):
        routes = [
            ("POST", r"/api/repos/create", self.create),
            ("POST", r"/api/validate-yaml", self.validate),
            ("GET", r"/api/models/([^/]+/[^/]+)/refs", self.refs),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.tree),
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            ("POST", r"/api/models/([^/]+/[^/]+)/tag/(.+)", self.tag),
            ("GET", r"/api/models/([^/]+/[^/]+)/xet-(read|write)-token/.+", self.xet_token),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            ("PUT", r"/lfs/upload/([0-9a-f]{64})", self.upload),
            ("POST", r"/lfs/verify", self.verify),
            ("GET", r"/lfs/([0-9a-f]{64})", self.lfs),
            ("GET", r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.data_set_file),
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.file),
        ]
        method = "GET" if self.command == "HEAD" else self.command
        for verb, pattern, answer in routes:
            match = re.fullmatch(pattern, self.route)
            if match and verb == method:
                return answer(*match.groups())
        raise HubError(404, f"no route for {self.command} {self.route}", "EntryNotFound")

    def create(self):
        wanted = json.loads(self.body)
        if self.role() != "write":
            raise HubError(403 if self.role() else 401, "You don't have the rights to create a repository")
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        private = wanted.get("private") or wanted.get("visibility") == "private"  # before huggingface_hub 1, and since
        self.server.store.create(repo_id, bool(private))
        return self.json({"url": f"{self.server.url}/{repo_id}", "name": repo_id})

    def validate(self):
        """As far as it goes: a block of YAML, with the fields of a model card in their types."""
        block = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", json.loads(self.body)["content"], re.DOTALL)
        if block is None:
            return self.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        try:
            data, errors = yaml.safe_load(block[1]), []
            if "license" not in data and "license_name" in data:
                errors.append("license_name needs license")
            for model in data.get("model-index", []):
                for result in model["results"]:
                    if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                        errors.append("model-index: task.type, dataset.type and dataset.name are needed")
                    if not all("type" in m and isinstance(m["value"], (int, float)) for m in result["metrics"]):
                        errors.append("model-index: a metric needs type and value")
        except (yaml.YAMLError, KeyError, TypeError) as error:
            errors = [str(error)]
        return self.json({"errors": [{"message": e} for e in errors], "warnings": []}, 400 if errors else 200)

    def refs(self, repo_id):
        repo = self.repo(repo_id)
        kinds = {"branches": "heads", "tags": "tags"}
        found = {
            kind: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": sha} for n, sha in repo[kind].items()]
            for kind, ref in kinds.items()
        }
        return self.json({**found, "converts": []})

    def info(self, repo_id, revision=None):
        repo = self.repo(repo_id)
        sha = self.server.store.resolve(repo, revision or "main")
        files = [{"rfilename": path} for path in sorted(repo["commits"][sha]["files"])]
        facts = {"_id": "0", "id": repo_id, "modelId": repo_id, "private": repo["private"], "sha": sha, "tags": []}
        return self.json({**facts, "siblings": files, "downloads": 0, "likes": 0, "library_name": "transformers"})

    def tree(self, repo_id, revision, folder=None):
        repo = self.repo(repo_id)
        files = repo["commits"][self.server.store.resolve(repo, revision)]["files"]
        start = f"{folder}/" if folder else ""
        below = {path: entry for path, entry in sorted(files.items()) if path.startswith(start)}
        if folder and not below:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for path, entry in below.items():
            if "/" in path[len(start) :]:
                parent = start + path[len(start) :].split("/")[0]
                if parent not in folders:
                    folders.add(parent)
                    entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": parent})
                if not recursive:
                    continue
            entries.append({"type": "file", "oid": entry["oid"], "size": entry["size"], "path": path})
            if entry["lfs"]:
                entries[-1]["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
        first = int(self.query.get("cursor", ["0"])[0])
        link = f'<{self.server.url}{self.route}?recursive={recursive}&cursor={first + PAGE}>; rel="next"'
        more = {"Link": link} if first + PAGE < len(entries) else {}
        return self.json(entries[first : first + PAGE], **more)

    def preupload(self, repo_id, revision):
        self.repo(repo_id, write=True)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) or file["size"] > 1e7 else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.json({"files": modes})

    def xet_token(self, repo_id, kind):
        self.repo(repo_id, write=kind == "write")
        if self.server.xet is None:
            raise HubError(404, "this Hub has no Xet")
        content, headers = self.server.xet.connection()
        return self.json(content, **headers)

    def batch(self, repo_id):
        self.repo(repo_id, write=True)
        if self.server.xet is not None and "xet" in json.loads(self.body)["transfers"]:
            return self.json({"transfer": "xet", "objects": []})
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            found = {"oid": wanted["oid"], "size": wanted["size"]}
            if self.server.store.get(wanted["oid"]) is None:
                upload = {"href": f"{self.server.url}/lfs/upload/{wanted['oid']}"}
                found["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}
            objects.append(found)
        return self.json({"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content is not what its hash says")
        self.server.store.put(self.body)
        return self.json({})

    def verify(self):
        if self.server.store.get(json.loads(self.body)["oid"]) is None:
            raise HubError(404, "no such object")
        return self.json({})

    def commit(self, repo_id, branch):
        self.repo(repo_id, write=True)
        store, additions, deletions, header = self.server.store, {}, [], {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                additions[value["path"]] = store.entry(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                content = store.get(value["oid"])
                if content is None and self.server.xet is not None:
                    content = self.server.xet.get(value["oid"])
                if content is None:
                    raise HubError(400, f"LFS object of {value['path']} was not uploaded")
                additions[value["path"]] = store.entry(content, lfs=True)
            elif item["key"] == "deletedFile":
                deletions.append(value["path"])
        if self.current is not None and self.current.do == "forget":
            additions.popitem()
        sha = store.commit(repo_id, branch, header["summary"], additions, deletions, header.get("parentCommit"))
        url = f"{self.server.url}/{repo_id}/commit/{sha}"
        return self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def branch(self, repo_id, name):
        return self.reference(repo_id, "branches", name, json.loads(self.body or b"{}").get("startingPoint", "main"))

    def tag(self, repo_id, revision):
        return self.reference(repo_id, "tags", json.loads(self.body)["tag"], revision)

    def reference(self, repo_id, kind, name, revision):
        repo = self.repo(repo_id, write=True)
        if name in repo[kind]:
            raise HubError(409, f"{name} exists already")
        repo[kind][name] = self.server.store.resolve(repo, revision)
        self.server.store.save(repo_id, repo)
        return self.json({})

    def file(self, repo_id, revision, path):
        repo = self.repo(repo_id)
        sha = self.server.store.resolve(repo, revision)
        entry = repo["commits"][sha]["files"].get(path)
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"'}
        if entry["lfs"]:
            headers |= {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
            if self.server.xet is not None and (found := self.server.xet.files().get(entry["sha256"])):
                route = f"{self.server.url}/api/models/{repo_id}/xet-read-token/{sha}"
                headers |= {"X-Xet-Hash": found[0], "X-Xet-Refresh-Route": route}
            # As a CDN has: clients follow a redirect to the same host before they look at these headers.
            other_host = self.server.url.replace("127.0.0.1", "localhost")
            return 302, {**headers, "Location": f"{other_host}/lfs/{entry['sha256']}"}, b""
        return self.ranged(self.server.store.get(entry["sha256"]), headers)

    def data_set_file(self, repo_id, revision, path):
        return self.file(f"datasets--{repo_id}", revision, path)

    def lfs(self, oid):
        content = self.server.store.get(oid)
        if content is None:
            raise HubError(404, "no such object")
        return self.ranged(content, {"ETag": f'"{oid}"'})

    def ranged(self, content, headers):
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return 200, headers, content
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]


if __name__ == "__main__":
    with Hub(sys.argv[1]) as server:
        print(server.url, flush=True)
        threading.Event().wait()
