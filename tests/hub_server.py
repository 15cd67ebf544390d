"""A Hugging Face hub of this process behind a real socket, which tests can break and mend.

It speaks what huggingface_hub calls to make a repository, look at it, push to it and fetch from
it: `/api/repos/create`, `/api/models`, `/api/validate-yaml`, `preupload`, the LFS batch with its
upload, the commit in lines of JSON, and `resolve` with ETag, commit and, for large files, a
redirect.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import configure_http_backend, constants, file_download

LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other")
LFS_FROM_BYTES = 8_192


@dataclass
class Repository:
    """A repository's commits and branches."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> path -> content."""
    refs: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit."""

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit to main and return its name."""
        content = repr((len(self.commits), sorted(files.items()))).encode()
        name = hashlib.sha1(content).hexdigest()
        self.commits[name] = files
        self.refs["main"] = name
        return name

    @property
    def head(self) -> str:
        """The commit of main."""
        return self.refs["main"]

    @property
    def files(self) -> dict[str, bytes]:
        """What main holds."""
        return self.commits[self.head]


TOKENS = {"hf_annas_secret": ("anna", "write"), "hf_readers_secret": ("reader", "read")}


class HubServer:
    """A running hub with two users: `anna` may write to her own, `reader` may not write."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fails: Callable[[str, str], int | None] = lambda _method, _path: None
        """Decides of every request by method and path: a status to answer with, 0 to hang up."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.store = f"http://localhost:{self._server.server_port}"
        """Where large files lie: another host, which must not see a token."""
        self._connections: set[socket.socket] = set()
        often = {"poll_interval": 0.01}
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs=often, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Refuse connections from here on, those that a client holds open included."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
        """A repository with one commit, as if somebody had pushed it."""
        repository = Repository(private)
        repository.commit(files)
        self.repositories[name] = repository
        return repository

    @contextmanager
    def failing(self, status: int, pattern: str) -> Iterator[None]:
        """Answer what matches `METHOD /path` with `status` inside the block; 0 hangs up."""
        before = self.fails
        self.fails = lambda method, path: status if re.search(pattern, f"{method} {path}") else None
        try:
            yield
        finally:
            self.fails = before


@contextmanager
def talk_to(endpoint: str, cache: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let huggingface_hub, which reads its variables once, talk to `endpoint` inside the block.

    Also how a test goes offline and where it finds a fresh cache: patch the constants again.
    """
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "no_token"))
    configure_http_backend()  # Sessions made before do not know that they may talk.
    yield
    patch.undo()
    configure_http_backend()


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    """Answers requests; `hub` is set by `_handler_of`."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Note the connection."""
        super().setup()
        self.hub._connections.add(self.connection)

    def finish(self) -> None:
        """Forget it."""
        self.hub._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length) if length else b""
        with self.hub._lock:
            self.hub.requests.append((self.command, path))
            status = self.hub.fails(self.command, path)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            try:
                if status is not None:
                    raise _Refused(status, "", f"a fault of the test, {status}")
                self._route(path)
            except _Refused as refused:
                headers = {"X-Error-Message": str(refused)}
                if refused.code:
                    headers["X-Error-Code"] = refused.code
                self._json({"error": str(refused)}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _route(self, path: str) -> None:
        for method, pattern, answer in self._ROUTES:
            if self.command in method and (found := re.fullmatch(pattern, path)):
                answer(self, **found.groupdict())
                return
        raise _Refused(404, "", f"no such page {path}")

    # What is asked.

    def _create(self) -> None:
        asked = json.loads(self.content)
        user, role = self._user()
        name = f"{asked['organization'] or user}/{asked['name']}"
        if role != "write" or not name.startswith(f"{user}/"):
            message = f"You don't have the rights to create a model under the namespace of {name}"
            raise _Refused(403, "", message)
        if name in self.hub.repositories:
            raise _Refused(409, "", "You already created this model repo")
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.hub.add(name, files, private=asked.get("private") or False)
        self._json({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def _info(self, name: str, revision: str = "main") -> None:
        repository = self._repository(name)
        commit, files = self._at(repository, revision)
        listed = [{"rfilename": path} for path in files]
        self._json({"id": name, "sha": commit, "private": repository.private, "siblings": listed})

    def _validate(self) -> None:
        text = json.loads(self.content)["content"]
        _, _, rest = text.partition("---\n")
        header = yaml.safe_load(rest.partition("\n---\n")[0])
        errors = []
        if header.get("license") not in LICENSES:
            errors.append({"message": '"license" must be one of [apache-2.0, mit, ...]'})
        base = header.get("base_model", "a/b")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            errors.append({"message": f'"base_model" {base} is not a valid model id'})
        for model in header.get("model-index", []):
            for result in model["results"]:
                named = result["task"]["type"] and result["dataset"]["type"]
                if not named or not all("value" in metric for metric in result["metrics"]):
                    errors.append({"message": '"model-index" is invalid'})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, name: str, revision: str) -> None:
        repository = self._writable(name)
        _, files = self._at(repository, revision)
        told = []
        for asked in json.loads(self.content)["files"]:
            large = asked["size"] >= LFS_FROM_BYTES
            one = {
                "path": asked["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
            }
            if (there := files.get(asked["path"])) is not None:
                one["oid"] = hashlib.sha256(there).hexdigest() if large else _git_oid(there)
            told.append(one)
        self._json({"files": told})

    def _batch(self, name: str) -> None:
        self._writable(name)
        told = []
        for asked in json.loads(self.content)["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                href = f"{self.hub.store}/lfs/{asked['oid']}"
                one["actions"] = {"upload": {"href": href}}
            told.append(one)
        self._json({"transfer": "basic", "objects": told})

    def _upload(self, oid: str) -> None:
        self._refuse_token()
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise _Refused(400, "", "another content")
        self.hub.blobs[oid] = self.content
        self._json({})

    def _commit(self, name: str, revision: str) -> None:
        repository = self._writable(name)
        commit, files = self._at(repository, revision)
        files = dict(files)
        for line in self.content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                if value.get("parentCommit") not in (None, commit):
                    raise _Refused(412, "", "A commit has happened since. Please refresh")
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                raise _Refused(400, "", f"unknown {entry['key']}")
        made = repository.commit(files)
        url = f"{self.hub.endpoint}/{name}/commit/{made}"
        self._json({"success": True, "commitOid": made, "commitUrl": url, "hookOutput": ""})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        commit, files = self._at(self._repository(name), revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content, headers = files[path], {"X-Repo-Commit": commit}
        if len(content) < LFS_FROM_BYTES:
            self._send(content, 200, {**headers, "ETag": f'"{_git_oid(content)}"'})
            return
        oid = hashlib.sha256(content).hexdigest()
        self.hub.blobs[oid] = content
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        headers["Location"] = f"{self.hub.store}/lfs/{oid}"
        self._send(b"", 302, headers)

    def _blob(self, oid: str) -> None:
        self._refuse_token()
        self._send(self.hub.blobs[oid], 200, {"ETag": f'"{oid}"'})

    _NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
    _REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
    _ROUTES = (
        (("POST",), r"/api/repos/create", _create),
        (("POST",), r"/api/validate-yaml", _validate),
        (("GET",), rf"/api/models/{_NAME}", _info),
        (("GET",), rf"/api/models/{_NAME}/revision/{_REVISION}", _info),
        (("POST",), rf"/api/models/{_NAME}/preupload/{_REVISION}", _preupload),
        (("POST",), rf"/api/models/{_NAME}/commit/{_REVISION}", _commit),
        (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _batch),
        (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _upload),
        (("GET", "HEAD"), r"/lfs/(?P<oid>[0-9a-f]{64})", _blob),
        (("GET", "HEAD"), rf"/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", _resolve),
    )

    # Who asks, and what for.

    def _user(self) -> tuple[str | None, str]:
        header = self.headers.get("Authorization")
        if header is None:
            return None, "none"
        token = header.removeprefix("Bearer ")
        if token not in TOKENS:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return TOKENS[token]

    def _refuse_token(self) -> None:
        if "Authorization" in self.headers:
            raise _Refused(400, "", "Only one auth mechanism allowed")

    def _repository(self, name: str) -> Repository:
        user, _ = self._user()
        repository = self.hub.repositories.get(name)
        hidden = repository is not None and repository.private and not name.startswith(f"{user}/")
        if repository is None or hidden:
            # As the hub: who is nobody does not learn what there is.
            status = 401 if user is None else 404
            raise _Refused(status, "RepoNotFound", "Repository not found")
        return repository

    def _writable(self, name: str) -> Repository:
        repository, (user, role) = self._repository(name), self._user()
        if role != "write" or not name.startswith(f"{user}/"):
            raise _Refused(403, "", f"You don't have the rights to write to {name}")
        return repository

    def _at(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        named = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status, named)

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _handler_of(server: HubServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"hub": server})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
