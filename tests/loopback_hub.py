"""A Hub on the loopback interface, of the standard library, for tests of what talks to the Hugging Face Hub.

It keeps repositories of models, datasets and spaces in memory, with commits, branches, tags, LFS files, private and
gated repositories and access by token. The libraries read HF_ENDPOINT when they are imported, so what is tested runs
in a fresh interpreter:

    with LoopbackHub() as hub:
        subprocess.run([sys.executable, "-m", ...], env=hub.environment(folder, token=OWNER))

Errors have the Hub's statuses and headers, since huggingface_hub tells its exceptions by them. What can go wrong is
made to go wrong by a `Fault`, of a route and of its n-th request:

    hub.broken["commit"] = Fault(429, retry_after=1, requests=[1])
"""

import base64
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


OWNER, READER = "hf_owner", "hf_reader"  # tokens
USERS = {OWNER: "owner", READER: "reader"}
DATE = "2025-01-01T00:00:00.000Z"
LFS_SUFFIXES = {".parquet", ".safetensors", ".bin", ".png", ".jpg", ".mp4", ".pt", ".zip"}


class Refusal(Exception):
    """An answer other than 200; `code` is what the Hub puts into X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **content: str):
        super().__init__(message)
        self.status, self.message, self.code, self.content = status, message, code, content


@dataclass(frozen=True)
class Fault:
    """
    What goes wrong with a route, from its first request on or with some of `requests` alone. One of:

    `status` with `message` is answered instead of doing what is asked.
    `cut` drops the connection: in the middle of the `"request"`, of which nothing is done, or of the `"answer"`.
    `wrong` changes a byte on its way: of the request's body, or of the answer to a request without.
    """

    status: int | None = None
    message: str = "broken for a test"
    retry_after: int | None = None
    cut: str | None = None
    wrong: bool = False
    requests: Container[int] = range(1, 1 << 30)


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """As git names it, but for LFS files by their content."""
        if self.lfs:
            return sha256(self.data).hexdigest()
        return sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def info(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        return entry | ({"lfs": {"oid": self.oid, "size": len(self.data), "pointerSize": 134}} if self.lfs else {})


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    files: dict[str, File]
    parent: str | None


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)  # who may read it although it is gated
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def files(self) -> dict[str, File]:
        """What is on main."""
        return self.commits[self.branches["main"]].files

    @property
    def history(self) -> list[str]:
        """Titles of the commits that led to main, the last first."""
        titles, commit = [], self.at("main")
        while commit:
            titles.append(commit.title)
            commit = self.commits.get(commit.parent)
        return titles

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, branch: str, title: str, message: str, files: dict[str, File]) -> Commit:
        parent = self.branches.get(branch)
        listing = "".join(f"{path} {file.oid}\n" for path, file in sorted(files.items()))
        oid = sha1(f"{self.kind}/{self.id} {len(self.commits)} {parent} {title}\n{listing}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, message, files, parent)
        self.branches[branch] = oid
        return self.commits[oid]


class LoopbackHub:
    """The server; its attributes tell a test what arrived.

    `repos` maps (`"dataset"`, `"owner/name"`) to what is stored, `requests` lists method, path and user's name, and
    `broken` maps the name of a route to its `Fault`.
    """

    def __init__(self):
        self.reset()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def reset(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.broken: dict[str, Fault] = {}
        self.seen = Counter()  # requests to routes that are broken

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """For a child process that knows this Hub and no other; `home` is its cache."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return inherited | settings | ({"HF_TOKEN": token} if token else {})

    def address(self, repo: Repo) -> str:
        return f"{self.endpoint}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.id}"


class HubHandler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.user = None
        fault = self.fault_of(url.path)
        if fault.cut == "request":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            return
        # read whatever comes of the answer: the rest of a body would be taken for the next request
        self.body = self.read_body()
        if fault.wrong and self.body:
            self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
        try:
            with self.hub.lock:
                status, headers, content = 200, *self.answer(url.path, fault)
        except Refusal as refusal:
            status, content = refusal.status, json.dumps({"error": refusal.message} | refusal.content).encode()
            headers = {"Content-Type": "application/json", "X-Error-Message": refusal.message}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        if fault.wrong and not self.body and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if status == 200 and self.headers.get("Range") and self.command in ("GET", "HEAD"):
            status, headers, content = self.part(headers, content)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault.cut == "answer":
            content, self.close_connection = content[: len(content) // 2], True
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def part(self, headers: dict, content: bytes) -> tuple[int, dict, bytes]:
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        start = int(first) if first else max(0, len(content) - int(last))
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]

    def route_of(self, path: str) -> tuple[Callable[..., Any] | None, dict[str, str]]:
        for method, pattern, route in ROUTES:
            if (match := re.fullmatch(pattern, path)) and self.command in method:
                return route, {key: unquote(value or "") for key, value in match.groupdict().items()}
        return None, {}

    def fault_of(self, path: str) -> Fault:
        route, _ = self.route_of(path)
        if route is None or route.__name__ not in self.hub.broken:
            return Fault()
        with self.hub.lock:
            self.hub.seen[route.__name__] += 1
            fault = self.hub.broken[route.__name__]
            return fault if self.hub.seen[route.__name__] in fault.requests else Fault()

    def answer(self, path: str, fault: Fault) -> tuple[dict, bytes]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        self.user = USERS.get(token)
        self.hub.requests.append((self.command, path, self.user))
        if fault.status:
            raise Refusal(fault.status, fault.message)
        route, arguments = self.route_of(path)
        if route is None:
            raise Refusal(404, f"LoopbackHub does not serve {self.command} {path}")
        content = route(self, **arguments)
        if isinstance(content, tuple):
            return content
        return {"Content-Type": "application/json"}, json.dumps(content).encode()

    # who may do what

    def signed_in(self) -> str:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def readable(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and self.user != repo.owner):
            # the Hub does not tell strangers whether there is such a repository
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, repo_id: str) -> Repo:
        user, repo = self.signed_in(), self.readable(kind, repo_id)
        if user != repo.owner:
            raise Refusal(403, f"You don't have the rights to write to {repo_id}")
        return repo

    # routes

    def whoami(self) -> dict:
        role = {"accessToken": {"displayName": "test", "role": "write"}}
        return {"type": "user", "name": self.signed_in(), "fullname": self.user, "orgs": [], "auth": role}

    def create_repo(self) -> dict:
        asked, user = json.loads(self.body), self.signed_in()
        owner, kind = asked.get("organization") or user, asked.get("type") or "model"
        if owner != user:
            raise Refusal(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        key = kind, f"{owner}/{asked['name']}"
        if key in self.hub.repos:
            raise Refusal(409, f"You already created this {kind} repo", url=self.hub.address(self.hub.repos[key]))
        repo = self.hub.repos[key] = Repo(
            *key, private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        repo.commit("main", "initial commit", "", {".gitattributes": File(b"*.parquet filter=lfs\n", lfs=False)})
        return {"url": self.hub.address(repo), "name": repo.id, "id": repo.id}

    def delete_repo(self) -> dict:
        asked = json.loads(self.body)
        kind = asked.get("type") or "model"
        repo = self.writable(kind, f"{asked.get('organization') or self.user}/{asked['name']}")
        del self.hub.repos[kind, repo.id]
        return {}

    def update_settings(self, kind: str, repo: str) -> dict:
        found, asked = self.writable(kind, repo), json.loads(self.body)
        found.gated = asked.get("gated", found.gated)
        if "visibility" in asked:
            found.private = asked["visibility"] == "private"
        return {}

    def validate_yaml(self) -> dict:
        text = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        try:
            valid = head is None or isinstance(yaml.safe_load(head.group(1)), dict)
        except yaml.YAMLError:
            valid = False
        return {"errors": [] if valid else [{"message": "Invalid YAML"}], "warnings": []}

    def repo_info(self, kind: str, repo: str, revision: str = "") -> dict:
        found = self.readable(kind, repo)
        commit = found.at(revision or "main")
        card = (
            re.match(rb"---\n(.*?)\n---", commit.files["README.md"].data, re.DOTALL)
            if "README.md" in commit.files
            else None
        )
        data = yaml.safe_load(card.group(1)) if card else {}
        siblings = [
            {"rfilename": path, "size": len(file.data), "blobId": file.oid}
            | ({"lfs": {"sha256": file.oid, "size": len(file.data), "pointerSize": 134}} if file.lfs else {})
            for path, file in sorted(commit.files.items())
        ]
        return {
            "id": found.id,
            "modelId": found.id,
            "author": found.owner,
            "sha": commit.oid,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": found.private,
            "gated": found.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": data.get("tags", []),
            "library_name": data.get("library_name"),
            "pipeline_tag": data.get("pipeline_tag"),
            "cardData": data,
            "siblings": siblings,
        }

    def tree(self, kind: str, repo: str, revision: str, path: str = "") -> list[dict]:
        commit = self.readable(kind, repo).at(revision)
        entries = self.entries(commit)
        if path and path not in entries:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", [""])[0].lower() in ("true", "1")
        below = f"{path}/" if path else ""
        return [
            entry
            for name, entry in entries.items()
            if name.startswith(below) and (recursive or "/" not in name.removeprefix(below))
        ]

    def paths_info(self, kind: str, repo: str, revision: str) -> list[dict]:
        commit = self.readable(kind, repo).at(revision)
        entries, asked = self.entries(commit), parse_qs(self.body.decode())
        return [entries[path] for path in asked.get("paths", []) if path in entries]

    def entries(self, commit: Commit) -> dict[str, dict]:
        """Files and folders by path."""
        last = {"id": commit.oid, "title": commit.title, "date": DATE}
        entries = {path: file.info(path) for path, file in commit.files.items()}
        for path in commit.files:
            for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
                entries[folder] = {
                    "type": "directory",
                    "path": folder,
                    "size": 0,
                    "oid": sha1(folder.encode()).hexdigest(),
                }
        return {path: entries[path] | {"lastCommit": last} for path in sorted(entries)}

    def refs(self, kind: str, repo: str) -> dict:
        found = self.readable(kind, repo)

        def listed(names: dict[str, str], where: str) -> list[dict]:
            return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": oid} for n, oid in names.items()]

        heads, tags = listed(found.branches, "heads"), listed(found.tags, "tags")
        return {"branches": heads, "tags": tags, "converts": [], "pullRequests": []}

    def history(self, kind: str, repo: str, revision: str) -> list[dict]:
        found, commits = self.readable(kind, repo), []
        commit = found.at(revision)
        while commit:
            commits.append(commit)
            commit = found.commits.get(commit.parent)
        author = {"user": found.owner}
        return [
            {"id": c.oid, "title": c.title, "message": c.message, "date": DATE, "authors": [author]} for c in commits
        ]

    def branch(self, kind: str, repo: str, name: str) -> dict:
        found = self.writable(kind, repo)
        if self.command == "DELETE":
            if name not in found.branches:
                raise Refusal(404, f"no branch {name}", "RevisionNotFound")
            del found.branches[name]
        elif name in found.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        else:
            found.branches[name] = found.at(json.loads(self.body or b"{}").get("startingPoint", "main")).oid
        return {}

    def tag(self, kind: str, repo: str, name: str) -> dict:
        found = self.writable(kind, repo)
        if self.command == "DELETE":
            if name not in found.tags:
                raise Refusal(404, f"no tag {name}", "RevisionNotFound")
            del found.tags[name]
            return {}
        new = json.loads(self.body)["tag"]
        if new in found.tags:
            raise Refusal(409, f"Tag reference exists already: {new}")
        found.tags[new] = found.at(name).oid
        return {}

    def preupload(self, kind: str, repo: str, revision: str) -> dict:
        commit = self.writable(kind, repo).at(revision)
        files = []
        for asked in json.loads(self.body)["files"]:
            binary = b"\0" in base64.b64decode(asked["sample"])
            lfs = binary or PurePosixPath(asked["path"]).suffix in LFS_SUFFIXES or asked["size"] > 10_000_000
            there = commit.files.get(asked["path"])
            files.append(
                {
                    "path": asked["path"],
                    "uploadMode": "lfs" if lfs else "regular",
                    "shouldIgnore": False,
                    "oid": there.oid if there else None,
                }
            )
        return {"files": files, "commitOid": commit.oid}

    def lfs_batch(self, prefix: str, repo: str) -> dict:
        self.writable(KINDS[prefix], repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}"}
            stored = asked["oid"] in self.hub.uploads
            objects.append(asked | ({} if stored else {"actions": {"upload": upload}}))
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> dict:
        if sha256(self.body).hexdigest() != oid:
            raise Refusal(400, f"the content of {oid} is another")
        self.hub.uploads[oid] = self.body
        return {}

    def commit(self, kind: str, repo: str, revision: str) -> dict:
        found = self.writable(kind, repo)
        if revision not in found.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head, *operations = (json.loads(line) for line in self.body.splitlines())
        header, files = head["value"], dict(found.at(revision).files)
        if header.get("parentCommit", found.branches[revision]) != found.branches[revision]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for operation in operations:
            change, path = operation["value"], operation["value"]["path"]
            match operation["key"]:
                case "file":
                    files[path] = File(base64.b64decode(change["content"]), lfs=False)
                case "lfsFile":
                    if change["oid"] not in self.hub.uploads:
                        raise Refusal(422, f"{path}: LFS pointer pointed to a file that does not exist")
                    files[path] = File(self.hub.uploads[change["oid"]], lfs=True)
                case "deletedFile":
                    if files.pop(path, None) is None:
                        raise Refusal(404, f"{path} does not exist", "EntryNotFound")
                case "deletedFolder":
                    files = {name: file for name, file in files.items() if not name.startswith(path.rstrip("/") + "/")}
        commit = found.commit(revision, header["summary"], header.get("description", ""), files)
        return {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{self.hub.address(found)}/commit/{commit.oid}",
        }

    def resolve(self, prefix: str, repo: str, revision: str, path: str) -> tuple[dict, bytes]:
        found = self.readable(KINDS[prefix], repo)
        if found.gated and self.user != found.owner and self.user not in found.granted:
            raise Refusal(403 if self.user else 401, f"Access to {found.kind} {repo} is restricted.", "GatedRepo")
        commit = found.at(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.data))}
        return headers | {"Content-Type": "application/octet-stream"}, file.data


KINDS = {"": "model", "datasets/": "dataset", "spaces/": "space"}
API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+/[^/]+)"
PAGE = r"/(?P<prefix>datasets/|spaces/|)(?P<repo>[^/]+/[^/]+?)"
ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", r"/api/whoami-v2", HubHandler.whoami),
    ("POST", r"/api/repos/create", HubHandler.create_repo),
    ("DELETE", r"/api/repos/delete", HubHandler.delete_repo),
    ("POST", r"/api/validate-yaml", HubHandler.validate_yaml),
    ("GET", rf"{API}", HubHandler.repo_info),
    ("GET", rf"{API}/revision/(?P<revision>[^/]+)", HubHandler.repo_info),
    ("PUT", rf"{API}/settings", HubHandler.update_settings),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", HubHandler.tree),
    ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", HubHandler.paths_info),
    ("GET", rf"{API}/refs", HubHandler.refs),
    ("GET", rf"{API}/commits/(?P<revision>[^/]+)", HubHandler.history),
    ("POST DELETE", rf"{API}/branch/(?P<name>[^/]+)", HubHandler.branch),
    ("POST DELETE", rf"{API}/tag/(?P<name>[^/]+)", HubHandler.tag),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", HubHandler.preupload),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", HubHandler.commit),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", HubHandler.lfs_upload),
    ("GET HEAD", rf"{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubHandler.resolve),
]
