"""A hub on this machine: one dataset repository, the requests that a download makes, and ways to fail."""

import hashlib
import json
import re
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = "golfers/exports"


@dataclass
class Get:
    """A request for the contents of a file."""

    path: str
    range: str | None
    sent: int = 0


@dataclass
class HubServer:
    """Published files, planned failures, and the requests that came.

    Args:
        files: the repository's files by path.
        served: contents that are sent instead of the described ones.
        cuts: number of bytes sent before the connection is lost, for one request after another.
        refused: status and error code for every request whose address contains this text.
        stalls: files that are sent only by half until ``resume`` is set.
    """

    files: dict[str, bytes]
    served: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)
    gets: list[Get] = field(default_factory=list)

    def __enter__(self) -> "HubServer":
        hub = self

        class Handler(_Handler):
            published = hub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.resume.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def commit(self) -> str:
        """Hash of all files."""
        state = [(path, sha256(content)) for path, content in sorted(self.files.items())]
        return hashlib.sha1(json.dumps(state).encode()).hexdigest()

    @property
    def fetched(self) -> Counter[str]:
        """Number of requests for each file, by its name."""
        return Counter(get.path.rpartition("/")[2] for get in self.gets)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # The client hung up or was killed.
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    published: HubServer

    def log_message(self, *message: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._describe()
        else:
            self._file(with_body=True)

    def _describe(self) -> None:
        kind = "tree" if "/tree/" in self.path else "revision"
        if self._is_refused() or not self._is_known(f"/api/datasets/{REPO}/{kind}/"):
            return
        if kind == "tree":
            self._json([_description(path, content) for path, content in self.published.files.items()])
        else:
            self._json({"id": REPO, "sha": self.published.commit})

    def _file(self, *, with_body: bool) -> None:
        prefix = f"/datasets/{REPO}/resolve/"
        if self._is_refused() or not self._is_known(prefix):
            return
        path = unquote(urlsplit(self.path).path.removeprefix(prefix)).partition("/")[2]
        if path not in self.published.files:
            self._refuse(404, "EntryNotFound")
            return
        content = self.published.served.get(path, self.published.files[path])
        get = Get(path, self.headers["Range"])
        start = int(get.range.removeprefix("bytes=").partition("-")[0]) if get.range else 0
        self.send_response(HTTPStatus.PARTIAL_CONTENT if get.range else HTTPStatus.OK)
        self.send_header("ETag", f'"{_etag(path, self.published.files[path])}"')
        self.send_header("X-Repo-Commit", self.published.commit)
        self.send_header("Content-Length", str(len(content) - start))
        if get.range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.published.gets.append(get)
            self._body(get, content[start:])

    def _body(self, get: Get, content: bytes) -> None:
        cuts = self.published.cuts.get(get.path, [])
        if get.path in self.published.stalls:
            self._send(get, content[: len(content) // 2])
            self.published.stalled.set()
            self.published.resume.wait(60)
            content = content[len(content) // 2 :]
        if cuts:
            self._send(get, content[: cuts.pop(0)])
            self.close_connection = True
        else:
            self._send(get, content)

    def _send(self, get: Get, content: bytes) -> None:
        self.wfile.write(content)
        self.wfile.flush()
        get.sent += len(content)

    def _json(self, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _is_known(self, prefix: str) -> bool:
        if not self.path.startswith(prefix):
            self._refuse(404, "RepoNotFound")
            return False
        revision = urlsplit(self.path).path.removeprefix(prefix).partition("/")[0]
        if not re.fullmatch("main|[0-9a-f]{40}", revision):
            self._refuse(404, "RevisionNotFound")
            return False
        return True

    def _is_refused(self) -> bool:
        for text, (status, code) in self.published.refused.items():
            if text in self.path:
                self._refuse(status, code)
                return True
        return False

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_large(path: str) -> bool:
    """Returns True if the hub would store the file outside git, under its SHA-256."""
    return path.endswith((".bin", ".model"))


def _etag(path: str, content: bytes) -> str:
    return (
        sha256(content)
        if _is_large(path)
        else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )


def _description(path: str, content: bytes) -> dict[str, object]:
    description = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if _is_large(path):
        description["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return description
