"""A Kaggle on 127.0.0.1: serves folders of one directory as models, as much of its protocol as downloads use.

    root/<owner>/<model>/<framework>/<variant>/<file>

The client's package knows a fixed list of hosts; `CLIENT` is code that points one of them here, for the top of a script that then runs kagglehub's real code.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = 3
ENVIRONMENT = "LOCALHOST"
CLIENT = """
import os, kagglesdk.kaggle_env as places
places._env_to_endpoint[places.KaggleEnv.LOCAL] = os.environ["KEXPORT_TEST_KAGGLE"]
"""
_SERVICE = "/api/v1/models.ModelApiService/"


@contextmanager
def serve(root: Path) -> Iterator[dict[str, str]]:
    """Gives the settings that `CLIENT` and kagglehub read. Models whose variant starts with `gated` answer 403."""

    class Handler(BaseHTTPRequestHandler):
        """GetModelInstance, and DownloadModelInstanceVersion of one file."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            framework = str(asked["framework"]).lower().removeprefix("model_framework_")
            folder = root / asked["ownerSlug"] / asked["modelSlug"] / framework / asked["instanceSlug"]
            if asked["instanceSlug"].startswith("gated"):
                return self._answer(403, b'{"code": 403, "message": "consent is needed"}', "application/json")
            if not folder.is_dir():
                return self._answer(404, b'{"code": 404, "message": "not found"}', "application/json")
            if self.path == f"{_SERVICE}GetModelInstance":
                return self._answer(200, json.dumps({"versionNumber": VERSION}).encode(), "application/json")
            path = folder / asked["path"]
            if self.path != f"{_SERVICE}DownloadModelInstanceVersion" or not path.is_file():
                return self._answer(404, b"", "text/plain")
            return self._answer(200, path.read_bytes(), "application/octet-stream")

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {"KAGGLE_API_ENVIRONMENT": ENVIRONMENT, "KEXPORT_TEST_KAGGLE": f"http://127.0.0.1:{server.server_address[1]}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
