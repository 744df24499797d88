"""A stand-in of the Hugging Face Hub: the part of its HTTP interface that huggingface_hub calls.

Written after huggingface_hub 2.4; it is not the Hub. Repositories are kept in memory. Files up to
`LARGE` bytes come in the commit, larger ones by Git LFS; Xet storage is left out.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = 10_000
WRITES, READS = "hf_writes", "hf_reads"  # tokens


class Hub(ThreadingHTTPServer):
    """Attributes: `repos[kind/user/name][revision]` is a commit, `commits[commit]` its files."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.commits, self.large, self.asked = {}, {}, {}, []
        self.private, self.damages, self.answers = set(), set(), 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(
        self,
        repo: str,
        files: dict[str, bytes],
        revision: str = "main",
        removed: Sequence[str] = (),
    ) -> str:
        """Commits files, on top of those that are there; returns the commit."""
        branches = self.repos.setdefault(repo, {})
        files = self.commits.get(branches.get(revision), {}) | files
        files = {name: data for name, data in files.items() if name not in removed}
        listed = repr((repo, sorted((name, sha256(data)) for name, data in files.items())))
        commit = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[commit], branches[revision] = files, commit
        return commit


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def etag(data: bytes) -> str:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return sha256(data) if len(data) > LARGE else git


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body=b"", status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(data))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.server, unquote(urlparse(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.answers:
            return self.reply(status=hub.answers)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.command == "POST" and token != WRITES:
            return self.reply(status=403 if token == READS else 401)
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, path):
                return answer(self, *found.groups())
        return self.reply(status=404)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  the names that http.server calls

    def commit(self, kind, repo, revision):
        """The commit of a revision, or None after an error was sent."""
        name, token = f"{kind}/{repo}", self.headers.get("Authorization")
        branches = self.server.repos.get(name)
        if branches is None or (name in self.server.private and not token):
            self.reply(status=401, X_Error_Code="RepoNotFound")
        elif revision in (*branches, *branches.values()):
            return branches.get(revision, revision)
        else:
            self.reply(status=404, X_Error_Code="RevisionNotFound")
        return None

    def info(self, kind, repo, revision):
        if commit := self.commit(kind, repo, revision):
            self.reply({"id": repo, "sha": commit, "private": False, "tags": [], "downloads": 0})

    def tree(self, kind, repo, revision):
        if not (commit := self.commit(kind, repo, revision)):
            return
        rows = []
        for name, data in self.server.commits[commit].items():
            row = {"type": "file", "path": name, "size": len(data), "oid": etag(data)[:40]}
            if len(data) > LARGE:
                row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            rows.append(row)
        folders = {name.rpartition("/")[0] for name in self.server.commits[commit]} - {""}
        rows += [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]
        self.reply(rows)

    def resolve(self, kind, repo, revision, name):
        if not (commit := self.commit(kind or "models", repo, revision)):
            return
        if (data := self.server.commits[commit].get(name)) is None:
            self.reply(status=404, X_Error_Code="EntryNotFound")
            return
        tag = f'"{etag(data)}"'
        if name in self.server.damages:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.reply(data, X_Repo_Commit=commit, ETag=tag)

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked.get('type') or 'model'}s/{asked['organization'] or 'ann'}/{asked['name']}"
        if name in self.server.repos:
            return self.reply({"url": f"{self.server.url}/{name}"}, 409)
        self.server.repos[name] = {}
        self.server.add(name, {".gitattributes": b""})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(name)
        return self.reply({"url": f"{self.server.url}/{name}", "name": asked["name"]})

    def yaml(self):
        import yaml

        matter = json.loads(self.body)["content"].split("---\n")[1]
        names = yaml.safe_load(matter)
        wrong = [] if names else [{"message": "it has no front matter"}]
        self.reply({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def branch(self, kind, repo, name):
        branches = self.server.repos[f"{kind}/{repo}"]
        self.reply(status=409 if name in branches else 200)
        branches.setdefault(name, branches["main"])

    def preupload(self, kind, repo, revision):
        files = json.loads(self.body)["files"]
        modes = [
            {"path": file["path"], "shouldIgnore": False,
             "uploadMode": "lfs" if file["size"] > LARGE else "regular"}
            for file in files
        ]  # fmt: skip
        self.reply({"files": modes})

    def batch(self, kind, repo):
        href = f"{self.server.url}/large/"
        objects = [
            one | {"actions": {"upload": {"href": href + one["oid"]}}}
            for one in json.loads(self.body)["objects"]
        ]
        self.reply({"transfer": "basic", "objects": objects})

    def upload(self, oid):
        assert sha256(self.body) == oid
        self.server.large[oid] = self.body
        self.reply()

    def commit_files(self, kind, repo, revision):
        files, removed = {}, []
        for line in self.body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            if row["key"] == "lfsFile":
                files[row["value"]["path"]] = self.server.large[row["value"]["oid"]]
            if row["key"] == "deletedFile":
                removed.append(row["value"]["path"])
        commit = self.server.add(f"{kind}/{repo}", files, revision, removed)
        self.reply({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})


_REPO = r"(models|datasets|spaces)/([^/]+/[^/]+)"
ROUTES = (
    (f"/api/{_REPO}/revision/([^/]+)", Handler.info),
    (f"/api/{_REPO}/tree/([^/]+)", Handler.tree),
    (r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
    ("/api/repos/create", Handler.create),
    ("/api/validate-yaml", Handler.yaml),
    (f"/api/{_REPO}/branch/([^/]+)", Handler.branch),
    (f"/api/{_REPO}/preupload/([^/]+)", Handler.preupload),
    (r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("/large/([0-9a-f]{64})", Handler.upload),
    (f"/api/{_REPO}/commit/([^/]+)", Handler.commit_files),
)
