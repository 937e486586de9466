"""The server of `rdt view`: on loopback, behind a token in its address, read-only, standard library alone.

    GET /<token>/                    the list of runs
    GET /<token>/runs.json           its rows; the page asks for them every two seconds
    GET /<token>/live?run=<id>...    curves and pictures of chosen runs, as HTML
    GET /<token>/report?run=<id>...  the report over chosen finished runs, over all if none is named
    GET /<token>/version?run=<id>... a digest that changes when one of them does
    GET /<token>/image/<id>/samples/[<point>/]<image>

A page runs the scripts of rdt alone: its content security policy names their nonce. Of a run folder nothing is sent as
it is but images, under a type of image.
"""

import json
import re
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from rdt.report.compare import compare
from rdt.report.gallery import is_image
from rdt.report.page import report_html
from rdt.view.live import live_html
from rdt.view.page import index_html, watched
from rdt.view.state import Folder, RunState, run_id

HOST = "127.0.0.1"
IMAGE = re.compile(r"samples/(?:[a-z0-9.-]{1,100}/)?[a-z0-9.-]{1,100}\.(png|webp)")  # below a run's folder
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ViewServer(ThreadingHTTPServer):
    """Serves the runs of one folder."""

    daemon_threads = True

    def __init__(self, root: Path, port: int) -> None:
        super().__init__((HOST, port), Handler)
        self.folder, self.token, self.lock = Folder(root), secrets.token_urlsafe(16), Lock()

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def runs(self) -> dict[str, RunState]:
        """Return the runs by id."""
        with self.lock:
            return self.folder.runs()

    def version(self, ids: list[str]) -> str:
        """Return a digest that changes when one of these runs does."""
        with self.lock:
            return self.folder.version(ids)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ViewServer
    server_version, sys_version = "rdt", ""
    timeout = 30  # seconds that a client may take over its request

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal has the address alone."""

    def do_GET(self) -> None:
        """Answer a request for a page, its data or an image; 403 without the token or under another host's name."""
        url = urlsplit(self.path)
        _, token, *rest = url.path.split("/", 2) + [""] * 2
        port, known = self.server.server_address[1], self.server.token
        named = self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")
        if named and url.path == "/favicon.ico":  # which browsers ask for by themselves
            self.refuse(204)
        elif not named or not secrets.compare_digest(token.encode(), known.encode()):
            self.refuse(403)
        else:
            self.answer(rest[0], parse_qs(url.query).get("run", []))

    def answer(self, what: str, ids: list[str]) -> None:
        """Send what an address below the token names; 404 if it names nothing."""
        pages = {"": self.index, "report": self.report, "live": self.live}
        if what in pages:
            nonce = secrets.token_urlsafe(16)
            self.send(pages[what](ids, nonce), "text/html; charset=utf-8", nonce)
        elif what == "runs.json":
            self.send_json([one.shown for one in self.server.runs().values()])
        elif what == "version":
            self.send_json(self.server.version(ids))
        else:
            self.send_image(unquote(what))

    def index(self, ids: list[str], nonce: str) -> str:
        """Return the list of runs."""
        return index_html(self.server.folder.root, nonce)

    def live(self, ids: list[str], nonce: str) -> str:
        """Return the curves and pictures of runs."""
        runs = self.server.runs()
        return live_html([runs[name] for name in ids if name in runs], self.image_address)

    def report(self, ids: list[str], nonce: str) -> str:
        """Return the report over finished runs, which is drawn again when one of them changes."""
        runs = self.server.runs()
        chosen = [runs[name].run for name in ids or runs if name in runs]
        finished = [run for run in chosen if run is not None]
        if not finished:
            return index_html(self.server.folder.root, nonce, "None of these runs is finished yet.")
        page = report_html(compare(finished), [], lambda _: self.image_address, f' nonce="{nonce}"')
        return watched(page, self.server.version(ids or list(runs)), nonce)

    def image_address(self, path: Path) -> str:
        """Return the address of an image in a run's folder, relative to the page."""
        run = next(parent for parent in path.parents if parent.name == "samples").parent
        return f"image/{run_id(run)}/{quote(path.relative_to(run).as_posix())}"

    def send_image(self, what: str) -> None:
        """Send an image of a run's samples; 404 for anything else, also what a link leads to outside of the run."""
        kind, _, rest = what.partition("/")
        name, _, place = rest.partition("/")
        run, match = self.server.runs().get(name), IMAGE.fullmatch(place)
        if kind != "image" or run is None or match is None or ".." in place:
            self.refuse(404)
            return
        path = run.path / place
        if not path.resolve().is_relative_to(run.path.resolve()) or not path.is_file() or not is_image(path):
            self.refuse(404)
            return
        self.send(path.read_bytes(), f"image/{match[1]}")

    def send_json(self, value: Any) -> None:
        """Send a JSON value."""
        self.send(json.dumps(value, allow_nan=False), "application/json")

    def send(self, content: str | bytes, kind: str, nonce: str = "") -> None:
        """Send an answer of a type; scripts with the nonce may run in it."""
        body = content.encode("utf-8", "replace") if isinstance(content, str) else content
        script = f"; script-src 'nonce-{nonce}'" if nonce else ""
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(body))), ("Content-Security-Policy", POLICY + script),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int) -> None:
        """Send a status without a word."""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()
