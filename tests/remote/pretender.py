"""A server that is no engine and says what a test wants. Not a test itself."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VLLM = '{"data": [{"id": "base", "owned_by": "vllm", "root": "m", "max_model_len": 512, "parent": null}]}'
END = (
    '{"choices": [{"index": 0, "text": "!", "token_ids": [40], "finish_reason": "length",'
    ' "logprobs": {"tokens": ["token_id:40"], "token_logprobs": [-0.5], "top_logprobs": null}}]}'
)


def chunks(*said: str) -> str:
    return "".join(f"data: {one}\n\n" for one in (*said, "[DONE]"))


class Pretender(ThreadingHTTPServer):
    """A server that says what a test wants: `answers` maps a path to (status, text), or a list of them in turn."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.bodies = answers, []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._say()

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self._say()

    def _say(self) -> None:
        found = self.server.answers.get(self.path, (404, "{}"))  # type: ignore[attr-defined]
        status, text = (found.pop(0) if len(found) > 1 else found[0]) if isinstance(found, list) else found
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
