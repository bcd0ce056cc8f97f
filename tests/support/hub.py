"""A hub of models on this machine: as much of its interface as uploading and downloading files takes."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Its repositories: the files of each commit, by name; `requests` is all that was asked."""

    def __init__(self):
        self.repos, self.requests, self.down = {}, [], False

    def files(self, repo, revision="main"):
        """The files of a revision; None if there is no such one."""
        commits = self.repos.get(repo)
        if commits is None:
            return None
        return list(commits.values())[-1] if revision == "main" else commits.get(revision)

    def commit(self, repo, files):
        """Add a commit with exactly these files; returns its name."""
        commits = self.repos.setdefault(repo, {})
        name = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[name] = dict(files)
        return name


@contextmanager
def serving(hub):
    """The address of a server of the hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, code, content=b"", **headers):
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def route(self):
            path, _, _ = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            hub.requests.append((self.command, path, self.headers.get("Authorization")))
            if hub.down:
                return self.answer(503, {"error": "down"})
            for pattern, act in routes:
                if found := re.fullmatch(pattern, unquote(path)):
                    return act(self, body, *found.groups())
            return self.answer(404, {"error": path})

        do_GET = do_HEAD = do_POST = route  # noqa: N815 - the names that the standard library calls

        def create(self, body):
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.repos.setdefault(repo, {"0" * 40: {}})
            self.answer(200, {"url": f"{address}/{repo}", "id": repo})

        def preupload(self, body, repo, _):
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer(200, {"files": modes})

        def upload(self, body, repo, _):
            files = dict(hub.files(repo))
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "deletedFile":
                    files.pop(value["path"])
            name = hub.commit(repo, files)
            self.answer(200, {"commitUrl": f"{address}/{repo}/commit/{name}", "commitOid": name, "success": True})

        def tree(self, body, repo, revision):
            files = hub.files(repo, revision)
            listed = [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in files.items()]
            self.answer(200, listed)

        def about(self, body, repo, revision="main"):
            if (files := hub.files(repo, revision)) is None:
                return self.answer(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
            name = list(hub.repos[repo])[-1]
            return self.answer(200, {"id": repo, "sha": name, "siblings": [{"rfilename": path} for path in files]})

        def resolve(self, body, repo, revision, path):
            if repo not in hub.repos:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if (files := hub.files(repo, revision)) is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if path not in files:
                return self.answer(404, X_Error_Code="EntryNotFound")
            commit = list(hub.repos[repo])[-1] if revision == "main" else revision
            etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
            return self.answer(200, files[path], X_Repo_Commit=commit, ETag=etag)

    name = r"([\w.-]+/[\w.-]+)"
    routes = [
        (r"/api/repos/create", Handler.create),
        (r"/api/validate-yaml", lambda handler, body: handler.answer(200, {"errors": [], "warnings": []})),
        (rf"/api/models/{name}/preupload/(\w+)", Handler.preupload),
        (rf"/api/models/{name}/commit/(\w+)", Handler.upload),
        (rf"/api/models/{name}/tree/(\w+)", Handler.tree),
        (rf"/api/models/{name}", Handler.about),
        (rf"/api/models/{name}/revision/(\w+)", Handler.about),
        (rf"/{name}/resolve/(\w+)/(.+)", Handler.resolve),
    ]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()
