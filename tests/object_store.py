"""An S3 server of this process that tests can break and mend: moto behind a real socket."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.WARNING)


class ObjectStore:
    """A running server with one bucket of its own.

    `fails(method, path)` decides of every request whether it is answered with an error: one that
    pyarrow passes on at once. It repeats 5xx by itself, for seconds.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.refused = 0
        self.fails: Callable[[str, str], bool] = lambda _method, _path: False
        self.status = "418 Down"
        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.open()
        self.host = f"127.0.0.1:{self._port}"
        client = boto3.client("s3", endpoint_url=f"http://{self.host}", region_name="us-east-1")
        self._bucket = f"bucket-{uuid.uuid4().hex[:8]}"  # moto keeps all buckets of a process
        client.create_bucket(Bucket=self._bucket)

    def uri(self, path: str) -> str:
        """The URI by which pyarrow finds `path` here."""
        query = f"?scheme=http&endpoint_override={self.host}&region=us-east-1"
        return f"s3://{self._bucket}/{path}{query}"

    def fail_for(self, requests: int) -> None:
        """Answer the next so many requests with an error."""
        last = self.refused + requests
        self.fails = lambda _method, _path: self.refused < last

    def fail_once_each(self) -> None:
        """Answer the first request of each method for each path with an error."""
        seen: set[tuple[str, str]] = set()

        def is_first(method: str, path: str) -> bool:
            first = (method, path) not in seen
            seen.add((method, path))
            return first

        self.fails = is_first

    def open(self) -> None:
        """Listen, again with what is stored and under the same address after `close`."""
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.fails(method, path):
            self.refused += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(self.status, [("Content-Length", "0")])
            return []
        return self._app(environ, start_response)
