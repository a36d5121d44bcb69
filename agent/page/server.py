"""The page's server: who may ask, what there is to ask for. What it can cost the loop is bounded in agent/reception.py.

A page that cannot be served is a problem that is told, never the end of the agent.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from agent.config import Config
from agent.errors import AgentError, ConfigError
from agent.journal import MessageId, about
from agent.page.address import Address, bind, known_as, parse
from agent.page.history import History
from agent.page.messages import MOST_HEAD, Answer, BadRequestError, Request, read
from agent.page.pictures import Pictures
from agent.page.telling import tell
from agent.page.token import Door, agents_token
from agent.reception import Reception, read_head, send
from agent.records import Frame, Result
from agent.snapshot import Snapshot

_LOG = logging.getLogger(__name__)
_HTML = "text/html; charset=utf-8"
_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", _HTML), "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
}
# What the form that asks for the token looks like is no secret.
_OPEN_FILES = {"/page.css": ("page.css", "text/css; charset=utf-8"), "/icon.svg": ("icon.svg", "image/svg+xml")}
_PLACES, _CLIENTS_PER_S = 16, 50.0
_HEAD_S, _ANSWER_S = 2.0, 8.0
_TICK_S = 1.0
_AGAIN_S = 5.0
_SNAPSHOT_S = 0.25


class Page:
    """The page of one agent, or the reason why there is none (``trouble``).

    Args:
        config: Names address, token and sources.
        device: Name of the box.
        snapshot: Returns what the agent says of itself.
        classes: What a detection's class is called.
    """

    def __init__(self, config: Config, device: str, snapshot: Callable[[], Snapshot], classes: Sequence[str]) -> None:
        self.trouble = ""
        self._snapshot = snapshot
        self._told: tuple[float, Snapshot] | None = None
        self._lock = threading.Lock()
        self._pictures = Pictures(config.source, classes)
        self._history = History()
        self._files, self._open_files = _load(_FILES), _load(_OPEN_FILES)
        self._refused = Answer(code=401, kind=_HTML, body=_static("token.html"),
                               headers={"WWW-Authenticate": 'Bearer realm="vedette"'})
        self._reception: Reception | None = None
        self._never = False
        self._closed = threading.Event()
        try:
            self._address = parse(config.status.listen or "")
            self._door = Door(agents_token(config), device)
        except AgentError as error:
            self._cannot(error, never=True)
        else:
            self._open()

    @property
    def served(self) -> str:
        """Where it can be asked for, ``host:port``; empty while it cannot."""
        return str(self._address) if self._reception and not self.trouble else ""

    def serve(self) -> None:
        """Answer until :meth:`close`; run in a thread named ``page``.

        What cannot be listened on yet is tried again: a network may give its address long after the start.
        """
        while not self._never and not self._reception and not self._closed.wait(_AGAIN_S):
            self._open()
        if self._reception:
            self._reception.serve()

    def close(self) -> None:
        """Take no more clients."""
        with self._lock:
            self._closed.set()
        if self._reception:
            self._reception.close()

    def onlooker(self, frame: Frame, result: Result) -> None:
        """Learn of a frame that was looked at; called by the loop."""
        self._history.saw(result.age_s)
        self._pictures.onlooker(frame, result)

    def _open(self) -> None:
        """Listen if that is possible now; ``trouble`` says why it is not."""
        try:
            reception = self._listen(self._address)
        except AgentError as error:
            self._cannot(error, never=isinstance(error, ConfigError))
            return
        self.trouble = ""
        with self._lock:
            self._reception = reception
            if self._closed.is_set():  # meanwhile, by another thread, which found nothing to close
                reception.close()

    def _cannot(self, error: AgentError, *, never: bool) -> None:
        before, self.trouble, self._never = self.trouble, f"there is no page: {error.what}", never
        if self.trouble != before:
            again = "" if never else f"; tried again every {_AGAIN_S:g} s"
            _LOG.error("there is no page: %s%s", error, again, extra=about(MessageId.PAGE))

    def _listen(self, address: Address) -> Reception:
        refusal = Answer(code=503, body=b"busy with others\n").encode()
        reception = Reception(bind(address), self._answer, name="page-client", places=_PLACES, per_s=_CLIENTS_PER_S,
                              refusal=refusal, tick_s=_TICK_S, tick=self._tick)
        _LOG.info("the page is on http://%s/; `vedette page` prints its token", address)
        if not address.loopback:
            _LOG.warning("the page on %s can be reached from other machines, over plain HTTP: whoever listens on the "
                         "network sees pictures and token; 127.0.0.1 and `ssh -L` are safe", address)
        return reception

    def _tick(self) -> None:
        self._pictures.forget()
        self._history.sample(self._recent())

    def _answer(self, client: socket.socket) -> None:
        try:
            head = read_head(client, most=MOST_HEAD, within_s=_HEAD_S)
            if not head:
                return
            answer = self._route(read(head), str(client.getpeername()[0]))
        except BadRequestError as error:
            answer = Answer(code=error.code, body=f"{error}\n".encode())
        send(client, answer.encode(), within_s=_ANSWER_S)

    def _route(self, request: Request, client: str) -> Answer:
        if not known_as(request.headers.get("host", ""), self._address):
            return Answer(code=421, body=b"ask by an IP address, localhost, or this box's own name\n")
        if request.path in self._open_files:
            return self._open_files[request.path]
        if request.path == "/" and (token := request.query.get("token")):
            return self._let_in(token, client)
        return self._inside(request) if self._admitted(request, client) else self._refused

    def _let_in(self, token: str, client: str) -> Answer:
        """Give the cookie, and lead on to the page without the token in its address.

        Not by a redirect: behind one, a browser that came by a link from elsewhere would keep a SameSite=Strict cookie
        back.
        """
        if not self._door.knows_token(token, client):
            return self._refused
        return Answer(body=_static("enter.html"), kind=_HTML, headers={"Set-Cookie": self._door.set_cookie})

    def _inside(self, request: Request) -> Answer:
        if request.path in self._files:
            return self._files[request.path]
        if request.path == "/now.json":
            return self._now(request)
        try:
            return self._picture(request.path.removeprefix("/picture/"), request)
        except KeyError:
            return Answer(code=404, body=b"there is no such page\n")

    def _admitted(self, request: Request, client: str) -> bool:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._door.knows_token(token.strip(), client)
        return self._door.knows_cookie(request.headers.get("cookie", ""), client)

    def _now(self, request: Request) -> Answer:
        try:
            after = float(request.query.get("after", "0"))
        except ValueError:
            after = 0.0
        return Answer(kind="application/json",
                      body=msgspec.json.encode(tell(self._recent(), self._history.samples(after))))

    def _picture(self, name: str, request: Request) -> Answer:
        shown = self._pictures.ask(name)
        if shown is None or request.query.get("after") == str(shown.caption.seq):
            return Answer(code=204)
        return Answer(kind="image/jpeg", body=shown.jpeg,
                      headers={"Vedette-Caption": shown.caption_now(time.monotonic()).decode()})

    def _recent(self) -> Snapshot:
        """Return a snapshot that is at most a quarter of a second old, however many ask."""
        with self._lock:
            now = time.monotonic()
            if self._told is None or now - self._told[0] >= _SNAPSHOT_S:
                self._told = (now, self._snapshot())
            return self._told[1]


def _static(name: str) -> bytes:
    return (_STATIC / name).read_bytes()


def _load(files: Mapping[str, tuple[str, str]]) -> Mapping[str, Answer]:
    return {path: Answer(body=_static(name), kind=kind) for path, (name, kind) in files.items()}
