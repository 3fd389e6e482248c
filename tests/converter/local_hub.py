"""A Hugging Face hub on 127.0.0.1: serves folders of one directory as `org/name`, as much of the protocol as downloads use."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serves `root/<org>/<name>/<file>`; gives the endpoint. Repositories whose name starts with `gated` answer 403."""

    class Handler(BaseHTTPRequestHandler):
        """HEAD and GET of /org/name/resolve/main/file."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def _answer(self, *, with_body: bool) -> None:
            repository, _, name = self.path.lstrip("/").partition("/resolve/main/")
            if repository.split("/")[-1].startswith("gated"):
                return self._refuse(403, "GatedRepo")
            if not (root / repository).is_dir():
                return self._refuse(404, "RepoNotFound")
            path = root / repository / name
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)
            return None

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", _COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
