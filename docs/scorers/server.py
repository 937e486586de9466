"""Serves a scorer of yours to reward=remote, in an environment without rdt: it needs Python 3.10 and Pillow alone.

    python server.py hpsv3.py 8000

The file that is named first defines score(images, prompts, metadata): B Pillow images in RGB, B texts, and B dicts with
the other fields of the prompts' rows. It returns B numbers, None for an image without a score. The server listens on
this machine alone; across machines, forward its port by ssh.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from runpy import run_path
from threading import Lock

from PIL import Image

LARGEST = 72000000  # bytes of a request
HOSTS = ("127.0.0.1", "localhost")


def decoded(body):
    """Return images, prompts and metadata of a request; ValueError, KeyError or OSError if it is none."""
    query = json.loads(body)
    if query.get("format", "png") != "png":
        raise ValueError(f"format={query['format']}, expected png")
    images = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in query["images"]]
    prompts, metadata = query["prompts"], query.get("metadata") or [{} for _ in images]
    if not len(images) == len(prompts) == len(metadata):
        raise ValueError(f"{len(images)} images, {len(prompts)} prompts, {len(metadata)} metadata")
    return images, prompts, metadata


def number(score):
    """Return a score as JSON holds it: a number that is not finite is null."""
    value = float("nan") if score is None else float(score)
    return value if value - value == 0 else None


class Handler(BaseHTTPRequestHandler):
    """Answers a request by the scores of the server's function, one request at a time."""

    def do_POST(self):
        """Answer with scores, or with what is wrong."""
        status, content = self.refusal() or self.scored(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refusal(self):
        """Return the status and the error of a request whose head is not wanted, else None."""
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if self.headers.get("Host", "").partition(":")[0] not in HOSTS or kind != "application/json":
            return 415, {"error": "expected application/json, sent to this machine"}
        if not length.isdecimal() or int(length) > LARGEST:
            return 413, {"error": f"Content-Length={length}, expected at most {LARGEST} bytes"}
        return None

    def scored(self, body):
        """Return the status and the content of the answer to a body."""
        try:
            query = decoded(body)
        except Exception as error:  # what a stranger sends may fail in any way
            return 400, {"error": repr(error)}
        try:
            with self.server.lock:
                return 200, {"scores": [number(one) for one in self.server.score(*query)]}
        except Exception as error:
            return 500, {"error": repr(error)}

    def log_message(self, *words):
        """Print no line per request."""


def main(file, port):
    """Answer requests until interrupted."""
    score = run_path(file)["score"]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.score, server.lock = score, Lock()
    print(f"{file} answers at http://127.0.0.1:{server.server_address[1]} until Ctrl-C", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
