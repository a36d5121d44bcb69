"""Debian's headless Chromium, driven over its debugging pipe: JSON messages that end in a zero byte, on files 3 and 4."""

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

_ANSWER_S = 30.0
# Puts the two ends where the browser looks for them, by way of numbers that are neither.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def need_chromium() -> str:
    """Return the browser's path; skip, and say how to get it, where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or pytest.skip(
        "needs a browser: apt-get install --no-install-recommends chromium")


class Tab:
    """One tab: what it asked for, what it complained about, and a way to ask it.

    Attributes:
        requests: Address of every request it made, in order.
        complaints: Console errors and warnings, uncaught exceptions, and what the browser itself logged.
        statuses: (HTTP status, address) of every answer.
    """

    def __init__(self, browser: "Chromium", session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.statuses: list[tuple[int, str]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        return self._browser.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def eval(self, expression: str):
        """Return the value of a JavaScript expression; of a promise, what it comes to."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"])
        return done["result"].get("value")

    def until(self, expression: str, timeout_s: float = 30.0):
        """Wait until the expression is true; return its value."""
        deadline, last = time.monotonic() + timeout_s, None
        while time.monotonic() < deadline:
            try:
                if last := self.eval(expression):
                    return last
            except AssertionError as error:  # the page is just being changed for another
                last = error
            time.sleep(0.1)
        raise AssertionError(f"not within {timeout_s} s: {expression}\n{last}\n{self.complaints}\n{self.eval('document.body.innerText')}")

    def look(self, *, width: int, height: int, dark: bool, scale: float = 1.0) -> None:
        """Take the size of a window, and the colours its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def heard(self, message: dict) -> None:
        kind, what = message["method"], message["params"]
        if kind == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif kind == "Network.responseReceived":
            self.statuses.append((what["response"]["status"], what["response"]["url"]))
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(what["exceptionDetails"]))
        elif kind == "Runtime.consoleAPICalled" and what["type"] in {"error", "warning", "assert"}:
            self.complaints.append(json.dumps(what["args"]))
        elif kind == "Log.entryAdded" and what["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")


class Chromium:
    """A browser with a profile of its own in `folder`; it ends with the block."""

    def __init__(self, folder: Path) -> None:
        command = [need_chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio",
                   f"--user-data-dir={folder}", "about:blank"]
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        with (folder.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(to_read), str(to_write), *command], pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue] = {}
        self._tabs: dict[str, Tab] = {}
        self._early: dict[str, list[dict]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._write)  # it takes this as the order to end
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()

    def tab(self) -> Tab:
        target = self.call("Target.createTarget", url="about:blank", browserContextId=self.call("Target.createBrowserContext")["browserContextId"])
        session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        tab = Tab(self, session)
        self._tabs[session] = tab
        for message in self._early.pop(session, []):
            tab.heard(message)
        return tab

    def call(self, method: str, session: str | None = None, **parameters) -> dict:
        number = next(self._numbers)
        answer = self._answers[number] = queue.Queue()
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        try:
            said = answer.get(timeout=_ANSWER_S)
        except queue.Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        assert "error" not in said, f"{method}: {said['error']}"
        return said["result"]

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._read, 1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif (session := message.get("sessionId")) in self._tabs:
                    self._tabs[session].heard(message)
                elif session:
                    self._early.setdefault(session, []).append(message)
        os.close(self._read)
