"""Runs a headless Chromium and controls it over a pipe by its DevTools protocol, without driver, package or port."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
]
CODES = {"Enter": 13, "Backspace": 8, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Tab": 9}


def installed() -> str | None:
    """Return the path of an installed Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """Controls a browser with one page, and keeps the page's requests and console messages."""

    def __init__(self, home: Path, size: tuple[int, int] = (1280, 860)) -> None:
        read, write = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (read[0], write[1])]

        def plug() -> None:
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        flags = [*FLAGS, f"--user-data-dir={home / 'profile'}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        with (home / "chromium.log").open("wb") as log:
            self.process = subprocess.Popen(
                [installed(), *flags], preexec_fn=plug, close_fds=False, stdout=log, stderr=log
            )
        for fd in (*theirs, read[0], write[1]):
            os.close(fd)
        self.to, self.back, self.rest, self.count = read[1], write[0], b"", 0
        self.requests, self.complaints, self.session = [], [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params):
        """Send a command and return its result."""
        self.count += 1
        request = {"id": self.count, "method": method, "params": params}
        request |= {"sessionId": self.session} if self.session and not method.startswith("Browser.") else {}
        os.write(self.to, json.dumps(request).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self._record(answer)

    def open(self, page: Path) -> None:
        """Load a file and wait until it has been drawn."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def js(self, expression: str):
        """Return the value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        last = time.monotonic() + seconds
        while not self.js(f"!!({expression})"):  # an element itself arrives as an empty object
            assert time.monotonic() < last, expression
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press and release keys."""
        for key in keys:
            code = CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            event = {"key": key, "windowsVirtualKeyCode": code}
            text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def hover(self, found: str) -> None:
        """Scroll to the element that an expression finds and move the mouse onto its middle."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(found))

    def click(self, found: str) -> None:
        """Press and release the mouse on the middle of the element that an expression finds."""
        at = self._middle(found) | {"button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **at)

    def tap(self, found: str) -> None:
        """Touch the middle of the element that an expression finds."""
        at = self._middle(found)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[at])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def show_as(self, width: int, height: int, dark: bool = False, phone: bool = False, media: str = "") -> None:
        """Give the page a size, a colour scheme, touch if it is a phone's, and a medium such as "print"."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def downloads(self, folder: Path) -> None:
        """Let the page save files into a folder."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, file: Path) -> None:
        """Save what is visible as PNG."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Stop the browser."""
        self.process.terminate()
        self.process.wait(60)
        os.close(self.to)
        os.close(self.back)

    def _middle(self, found: str) -> dict:
        box = f"(e => (e.scrollIntoView({{block: 'center'}}), e.getBoundingClientRect()))({found})"
        return self.js(f"(b => ({{x: b.x + b.width / 2, y: b.y + b.height / 2}}))({box})")

    def _message(self) -> dict:
        while b"\0" not in self.rest:
            assert select.select([self.back], [], [], 90)[0], "the browser does not answer"
            got = os.read(self.back, 1 << 16)
            assert got, "the browser has ended"
            self.rest += got
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _record(self, event: dict) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:80])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(params)
