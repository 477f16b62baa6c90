#!/usr/bin/env python3
"""A reference service for the reward source `http`: docs/http-reward.md in code, with the standard library only.

`scripts/reward_server.py 8900` scores 1.0 where a response is the reference answer, after its thinking. One that
contains it somewhere would also be paid for a list of all candidates.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def result(item: dict[str, Any]) -> dict[str, Any]:
    """One entry of `results`."""
    answer, text = item["problem"]["answer"].strip(), item["response"]["text"]
    if not answer:
        return {"id": item["id"], "error": "the problem has no reference answer"}
    final = text.rpartition("</think>")[2].strip().removesuffix(".")
    return {"id": item["id"], "score": float(final == answer), "parts": {"characters": len(text)}}


class Handler(BaseHTTPRequestHandler):
    """Answers each batch as a whole, or with status 400."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = request["version"] == 1
        results = [result(item) for item in request["items"]] if known else []
        body = json.dumps({"version": 1, "results": results} if known else {"error": "version 1 is needed"}).encode()
        self.send_response(200 if known else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()
