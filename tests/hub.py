"""A Hub on loopback: a real HTTP server that speaks what huggingface_hub and `datasets` ask.

It keeps commits, branches, tags, LFS objects and access rules in memory, checks what it is sent
(hashes, sizes, tokens), counts the bytes of every upload, and can be told to fail.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "LoopbackSecret" * 2
LFS_SUFFIXES = (".parquet", ".tar", ".png")
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.*))?)?$")


@dataclass(frozen=True)
class Blob:
    """A file of a commit: where its bytes are, and the hashes that the tree tells."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """git's hash of the blob; of an LFS file, of its pointer."""
        data = self.data
        if self.is_lfs:
            data = f"version https://git-lfs\noid sha256:{self.sha256}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Commit:
    oid: str
    message: str
    description: str
    files: dict[str, Blob]
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


@dataclass
class Repo:
    private: bool
    gated: Any = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def commit(self, branch: str, message: str, description: str, files, added, deleted) -> Commit:
        oid = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits.append(Commit(oid, message, description, files, tuple(added), tuple(deleted)))
        self.branches[branch] = oid
        return self.commits[-1]

    @property
    def files(self) -> dict[str, Blob]:
        commit = self.find("main")
        assert commit is not None
        return commit.files


@dataclass
class Fault:
    """How requests whose `METHOD /path` matches a pattern fail, `times` times after `skip` ones.

    `status`: answer that. `cut`: close the connection after so many bytes of the request's body
    (of the answer's body for GET). `before` and `after`: call that around the normal answer, and
    close the connection then instead of answering.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "told to fail"
    cut: int | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    skip: int = 0
    times: int = 1

    def hits(self, line: str) -> bool:
        if not self.times or not re.search(self.pattern, line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Hub:
    """The state behind the server."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.put_bytes: Counter[str] = Counter()
        """Bytes received by LFS uploads, by oid, also of those that were cut."""
        self.faults: list[Fault] = []
        self.leaks: list[str] = []
        """Upload links that were sent a token: they are of another host on the real Hub."""
        self.page = 1000
        self.max_files = 10_000
        """Files in one folder."""
        self.writers = {"me"}
        self.endpoint = ""
        self.lock = threading.RLock()

    def fail(self, pattern: str, **how: Any) -> Fault:
        """Makes further requests fail."""
        fault = Fault(pattern, **how)
        self.faults.append(fault)
        return fault

    def count(self, pattern: str) -> int:
        """Requests so far that match."""
        return sum(bool(re.search(pattern, line)) for line in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    # --- answering -----------------------------------------------------------------------------

    def _serve(self) -> None:
        hub = self.hub
        line = f"{self.command} {unquote(self.path)}"
        with hub.lock:
            hub.requests.append(line)
            fault = next((each for each in hub.faults if each.hits(line)), None)
        if fault is not None and fault.before is not None:
            self._read(limit=self._length() // 2)
            fault.before()
            return self._cut()
        if fault is not None and fault.cut is not None and self.command != "GET":
            self._read(limit=fault.cut)
            return self._cut()
        self.body = self._read()
        if fault is not None and fault.status is not None:
            return self._send_error(fault.status, "", fault.message, fault.headers)
        self.fault = fault
        with hub.lock:
            self._route()

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _read(self, limit: int | None = None) -> bytes:
        found = re.fullmatch(r"/lfs/([0-9a-f]{64})", self.path)
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            wanted = self._length() if limit is None else min(limit, self._length())
            data = self.rfile.read(wanted)
        if found and self.command == "PUT":
            self.hub.put_bytes[found[1]] += len(data)
        return data

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.fault is not None and self.fault.after is not None:
            self.fault.after()
            return self._cut()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.fault is not None and self.fault.cut is not None:
            self.wfile.write(data[: self.fault.cut])
            return self._cut()
        self.wfile.write(data)
        return None

    def _send_json(self, value: Any, status: int = 200, headers: dict | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), {**kind, **(headers or {})})

    def _send_error(self, status: int, code: str, text: str, headers: dict | None = None) -> None:
        self.fault = None
        known = {"X-Error-Code": code, "X-Error-Message": text} if code else {}
        self._send_json({"error": text}, status, {**known, **(headers or {})})

    # --- routing -------------------------------------------------------------------------------

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path, parse_qs(parts.query)
        if self.command == "POST" and path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(path.removeprefix("/datasets/").partition(".git")[0])
        if path.startswith("/lfs/"):
            return self._put(path.removeprefix("/lfs/"))
        if path == "/lfs-verify":
            return self._verify()
        if found := RESOLVE.fullmatch(path):
            return self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        if found := API.fullmatch(path):
            return self._api(found[1], found[2] or "info", unquote(found[3] or ""), query)
        return self._send_error(404, "", f"no such page {path}")

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_write(self, name: str) -> bool:
        if not self._is_known():
            self._send_error(401, "", "Invalid username or password.")
        elif name.split("/", maxsplit=1)[0] not in self.hub.writers:
            self._send_error(403, "", f"You don't have the rights to write to {name}")
        else:
            return True
        return False

    def _find(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_known()):
            status = 404 if self._is_known() else 401
            self._send_error(status, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _create(self) -> None:
        asked = json.loads(self.body)
        assert asked["type"] == "dataset"
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write(name):
            return
        url = {"url": f"{self.hub.endpoint}/datasets/{name}", "id": name}
        if name in self.hub.repos:
            return self._send_json({"error": "You already created this dataset repo", **url}, 409)
        repo = self.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        repo.commit("main", "initial commit", "", {".gitattributes": Blob(b"*", False)}, (), ())
        return self._send_json(url)

    def _batch(self, name: str) -> None:
        if self._find(name) is None or not self._may_write(name):
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/lfs-verify"},
                }
            objects.append(entry)
        self._send_json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            self.hub.leaks.append(self.path)
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send_error(400, "", "the bytes have another hash")
        self.hub.objects[oid] = self.body
        return self._send(200)

    def _verify(self) -> None:
        asked = json.loads(self.body)
        data = self.hub.objects.get(asked["oid"])
        if data is None or len(data) != asked["size"]:
            return self._send_error(404, "", "no such object")
        return self._send_json({})

    def _api(self, name: str, action: str, rest: str, query: dict[str, list[str]]) -> None:
        repo = self._find(name)
        if repo is None:
            return None
        if action in {"preupload", "commit", "tag", "branch", "settings"}:
            if self._may_write(name):
                getattr(self, f"_api_{action}")(name, repo, rest)
            return None
        if action == "info":
            return self._info(name, repo, repo.find("main"))
        if action == "refs":
            return self._refs(repo)
        if action in {"tree", "paths-info", "revision"}:
            revision, _, folder = rest.partition("/")
            commit = repo.find(revision)
            if commit is None:
                return self._send_error(404, "RevisionNotFound", f"no revision {revision}")
            if action == "revision":
                return self._info(name, repo, commit)
            if action == "paths-info":
                return self._paths_info(commit)
            return self._tree(commit, folder, query)
        return self._send_error(404, "", f"no such action {action}")

    # --- reading -------------------------------------------------------------------------------

    def _info(self, name: str, repo: Repo, commit: Commit | None) -> None:
        assert commit is not None
        self._send_json(
            {
                "_id": "0" * 24,
                "id": name,
                "author": name.split("/", maxsplit=1)[0],
                "sha": commit.oid,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "private": repo.private,
                "gated": repo.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            }
        )

    def _refs(self, repo: Repo) -> None:
        def tell(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
                for name, oid in refs.items()
            ]

        branches, tags = tell("heads", repo.branches), tell("tags", repo.tags)
        self._send_json({"branches": branches, "converts": [], "tags": tags})

    def _tell_file(self, path: str, blob: Blob) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 127}
        return entry

    def _list(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in commit.files.items():
            if not path.startswith(prefix):
                continue
            steps = path.removeprefix(prefix).split("/")
            for depth in range(1, len(steps)):
                name = prefix + "/".join(steps[:depth])
                if recursive or depth == 1:
                    entries[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
            if recursive or len(steps) == 1:
                entries[path] = self._tell_file(path, blob)
        return [entries[name] for name in sorted(entries)]

    def _tree(self, commit: Commit, folder: str, query: dict[str, list[str]]) -> None:
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries = self._list(commit, folder, recursive)
        if folder and not entries:
            return self._send_error(404, "EntryNotFound", f"no folder {folder}")
        start, stop = int(query.get("cursor", ["0"])[0]), 0
        headers = {}
        if len(entries) > (stop := start + self.hub.page):
            base = self.path.partition("?")[0]
            url = f"{self.hub.endpoint}{base}?recursive={recursive}&cursor={stop}"
            headers["Link"] = f'<{url}>; rel="next"'
        return self._send_json(entries[start:stop], headers=headers)

    def _paths_info(self, commit: Commit) -> None:
        if "json" in self.headers.get("Content-Type", ""):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode())["paths"]
        everything = {entry["path"]: entry for entry in self._list(commit, "", True)}
        self._send_json([everything[path] for path in wanted if path in everything])

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._find(name)
        if repo is None:
            return None
        if repo.gated and not self._is_known():
            return self._send_error(403, "GatedRepo", "Access to this dataset is restricted")
        commit = repo.find(revision)
        if commit is None:
            return self._send_error(404, "RevisionNotFound", f"no revision {revision}")
        blob = commit.files.get(path)
        if blob is None:
            return self._send_error(404, "EntryNotFound", f"no file {path}")
        headers = {
            "ETag": f'"{blob.sha256 if blob.is_lfs else blob.oid}"',
            "X-Repo-Commit": commit.oid,
            "Accept-Ranges": "bytes",
        }
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return self._send(200, blob.data, headers)
        size = len(blob.data)
        start = int(found[1]) if found[1] else max(0, size - int(found[2]))
        stop = min(size, int(found[2]) + 1) if found[1] and found[2] else size
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._send(206, blob.data[start:stop], headers)

    # --- writing -------------------------------------------------------------------------------

    def _api_preupload(self, name: str, repo: Repo, rest: str) -> None:
        commit = repo.find(rest)
        if commit is None:
            return self._send_error(404, "RevisionNotFound", f"no revision {rest}")
        answers = []
        for each in json.loads(self.body)["files"]:
            is_lfs = each["path"].endswith(LFS_SUFFIXES)
            answer = {
                "path": each["path"],
                "uploadMode": "lfs" if is_lfs else "regular",
                "shouldIgnore": False,
            }
            if blob := commit.files.get(each["path"]):
                answer["oid"] = blob.sha256 if blob.is_lfs else blob.oid
            answers.append(answer)
        return self._send_json({"files": answers})

    def _api_commit(self, name: str, repo: Repo, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        parent = repo.find(branch)
        assert parent is not None
        files, added, deleted = dict(parent.files), [], []
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            path = value["path"]
            if kind == "file":
                files[path] = Blob(base64.b64decode(value["content"]), False)
                added.append(path)
            elif kind == "lfsFile":
                data = self.hub.objects.get(value["oid"])
                if data is None:
                    return self._send_error(400, "", f"{path}: no LFS object {value['oid']}")
                files[path] = Blob(data, True)
                added.append(path)
            elif kind == "deletedFile":
                if files.pop(path, None) is None:
                    return self._send_error(404, "EntryNotFound", f"no file {path}")
                deleted.append(path)
            else:
                return self._send_error(400, "", f"what is {kind}?")
        folders = Counter(path.rpartition("/")[0] for path in files)
        if max(folders.values()) > self.hub.max_files:
            return self._send_error(400, "", f"over {self.hub.max_files} files in a folder")
        commit = repo.commit(
            branch, header["summary"], header["description"], files, added, deleted
        )
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{commit.oid}"
        return self._send_json({"success": True, "commitOid": commit.oid, "commitUrl": url})

    def _api_tag(self, name: str, repo: Repo, revision: str) -> None:
        tag, commit = json.loads(self.body)["tag"], repo.find(revision)
        if commit is None:
            return self._send_error(404, "RevisionNotFound", f"no revision {revision}")
        if tag in repo.tags:
            return self._send_error(409, "", f"Tag {tag} already exists")
        repo.tags[tag] = commit.oid
        return self._send_json({})

    def _api_branch(self, name: str, repo: Repo, branch: str) -> None:
        if branch in repo.branches:
            return self._send_error(409, "", f"Branch {branch} already exists")
        repo.branches[branch] = repo.branches["main"]
        return self._send_json({})

    def _api_settings(self, name: str, repo: Repo, rest: str) -> None:
        asked = json.loads(self.body)
        repo.gated = asked.get("gated", repo.gated)
        return self._send_json({})


@contextmanager
def open_hub():
    """Yields a Hub that listens on a free port of loopback; `endpoint` is its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub, "fault": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
