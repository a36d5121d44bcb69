"""The reference receiver of deploy/upstream (nginx with client certificates, ClickHouse), with faults on demand.

Starts with the operator's own script and configuration; a fault is that configuration with one line changed, and a
reload, or a TCP relay in front of it. It starts in half a second; one instance may serve many tests, with `needs()`
before and `clear()` between them.
"""

import contextlib
import gzip
import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests

SCRIPT = Path(__file__).parents[2] / "deploy/upstream/up"
QUERIES = SCRIPT.parent / "queries"
EVENTS = "location = /v1/events {"
HANDSHAKE = 2000  # bytes; a client's part of a TLS 1.3 handshake with a P-256 certificate is some 1,300
_WAIT_S = 20.0


def load_script():
    """Return the script as a module: its functions are the operator's, not a copy for the tests."""
    loader = importlib.machinery.SourceFileLoader("reference_upstream_up", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def needs() -> None:
    """Skip the calling test when nginx, ClickHouse or openssl is not installed."""
    search = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [package for name, package in load_script().PROGRAMS.items() if not shutil.which(name, path=search)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (ClickHouse: amd64 only): deploy/dev/setup packages all")


class ReferenceUpstream:
    """A running receiver; leaving its ``with`` block stops it.

    Attributes:
        url: What boxes post to.
        ca_file, client_cert, client_key: PEM files that a client needs; the client is ``box-001``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self.script = load_script()
        self.ca_file = self.folder / "tls/ca.pem"
        self.client_cert, self.client_key = self.folder / "tls/box-001.pem", self.folder / "tls/box-001.key"
        self.settings: dict = {}
        self.url = ""
        self._relay: Relay | None = None
        self._inner_port = 0

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._close_relay()
        for name in ("nginx", "clickhouse"):
            self.kill(name)

    # --- the servers ---

    def start(self) -> None:
        """Start what does not run, in mode "normal"; ports, certificates and data stay."""
        self._close_relay()
        given = [] if self.settings else ["--port", "0", "--clickhouse-port", "0", "--rate", "10000r/s", "--burst", "10000"]
        done = subprocess.run([sys.executable, SCRIPT, self.folder, *given], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        self.settings = json.loads((self.folder / "settings.json").read_text())
        self._inner_port = self._inner_port or self.script.free_port()
        self.url = self.script.url_of(self.settings)

    def kill(self, name: str = "nginx") -> None:
        """SIGKILL nginx with its workers, or "clickhouse" (nginx then answers 502); `start()` brings it back."""
        pid = self.script.pid_of(self.folder, name)
        if pid is None:
            return
        family = [pid, *_children(pid)]
        for each in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        _until(lambda: not any(_alive(each) for each in family), f"{name} is gone")

    def nginx(self, mode: str = "normal", *, retry_after: int | str | None = None, max_body: str = "1k", rate: str = "1r/m",
              where: str = "request", after: int = 2400, bytes_per_s: int = 2000) -> None:
        """Change what nginx does, by a reload; when this returns, no new connection sees the old way.

        Args:
            mode: "normal"; "502" ClickHouse cannot be reached; "413" bodies above ``max_body`` are refused;
                "limit" the real limit: ``rate`` requests, then 429; "cut" the connection is cut, see ``where``;
                "slow" the request trickles through at ``bytes_per_s``; any other three digits, such as "429" or "503":
                that answer, with a Retry-After of ``retry_after`` if given.
            where: "request": cut (reset) when ``after`` bytes of the client's have come through: some 1,700 of handshake,
                200 to 500 of headers, then part of the body (nothing is stored; a smaller request passes); "answer": everything is stored, then the
                connection is closed instead of the answer (the client cannot know).
        """
        self._close_relay()
        settings = dict(self.settings)
        relayed = mode == "slow" or (mode == "cut" and where == "request")
        if relayed:
            settings["port"] = self._inner_port
        if mode == "413":
            settings["max_body"] = max_body
        if mode == "limit":
            settings |= {"rate": rate, "burst": 1}
        text = self.script.render("nginx.conf", self.folder, settings)
        if mode == "502":
            text = _swap(text, f"server 127.0.0.1:{self.settings['clickhouse_port']};", "server 127.0.0.1:1;")
        elif mode == "cut" and where == "answer":
            text = _cut_answer(text, self._inner_port)
        elif mode.isdigit() and mode != "413":
            header = "" if retry_after is None else f'add_header Retry-After "{retry_after}" always; '
            text = _swap(text, EVENTS, f"{EVENTS} {header}return {mode};")
        else:
            assert mode in {"normal", "413", "limit", "cut", "slow"}, mode
        self._reload(text)
        if relayed:
            self._relay = Relay(self.settings["port"], self._inner_port, cut_after=after if mode == "cut" else None,
                                bytes_per_s=bytes_per_s if mode == "slow" else None)

    def _reload(self, text: str) -> None:
        (self.folder / "etc/nginx.conf").write_text(text)
        master = self.script.pid_of(self.folder, "nginx")
        assert master, "nginx does not run: start() it first"
        old = set(_children(master))
        self.script.nginx_command(self.folder, "-s", "reload")
        _until(lambda: set(_children(master)) - old and not any(_accepts(pid) for pid in old), "nginx has reloaded")

    def _close_relay(self) -> None:
        if self._relay:
            self._relay.close()
            self._relay = None

    # --- what has come ---

    def query(self, sql: str) -> list[dict]:
        """Return ClickHouse's rows; 64-bit numbers as int."""
        options = urllib.parse.urlencode({"default_format": "JSONEachRow", "output_format_json_quote_64bit_integers": 0})
        request = urllib.request.Request(f"http://127.0.0.1:{self.settings['clickhouse_port']}/?{options}", sql.encode())
        try:
            with self.script.OPENER.open(request, timeout=60) as answer:
                return [json.loads(line) for line in answer.read().splitlines()]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def run(self, name: str) -> list[dict]:
        """Return the rows of deploy/upstream/queries/NAME.sql."""
        return self.query((QUERIES / f"{name}.sql").read_text())

    def ids(self) -> list[str]:
        """Return the id of each event once, by box and sequence; heartbeats are left out."""
        return [row["id"] for row in self.query(
            "SELECT id FROM vedette.events FINAL WHERE type != 'heartbeat' ORDER BY source, sequence, id")]

    def raw_count(self) -> int:
        """Return the number of rows there are, duplicates counted; heartbeats are left out."""
        return self.query("SELECT count() AS n FROM vedette.events WHERE type != 'heartbeat'")[0]["n"]

    def clear(self) -> None:
        """Forget all events and be normal again."""
        if not self.script.pid_of(self.folder, "nginx") or not self.script.pid_of(self.folder, "clickhouse"):
            self.start()
        else:
            self.nginx("normal")
        self.query("TRUNCATE TABLE vedette.events")

    # --- clients ---

    def upstream_section(self, **more: object) -> str:
        """Return the `[upstream]` section for ``write_config``; ``more`` adds keys or wins over them."""
        lines = dict(line.split(" = ", 1) for line in self.script.section(self.folder, self.settings, "box-001").splitlines()[1:])
        lines |= {key: json.dumps(str(value) if isinstance(value, Path) else value) for key, value in more.items()}
        return "[upstream]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())

    def issue_client(self, name: str = "box-001", *, days: float = 30, expired: bool = False, foreign: bool = False) -> tuple[Path, Path]:
        """Return a new (certificate, key): ends in ``days``, or did an hour ago; ``foreign``: not of our authority."""
        import trustme

        authority = trustme.CA() if foreign else trustme.CA.from_pem(self.ca_file.read_bytes(), (self.folder / "tls/ca.key").read_bytes())
        end = datetime.now(timezone.utc) + (timedelta(hours=-1) if expired else timedelta(days=days))
        made = authority.issue_cert(name, common_name=name, not_after=end)
        place = self.folder / "issued" / f"{name}-{time.time_ns()}"
        place.mkdir(parents=True)
        certificate, key = place / "client.pem", place / "client.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.touch(0o600)
        key.write_bytes(made.private_key_pem.bytes())
        return certificate, key

    def post(self, events: Iterable[dict | bytes], *, cert: tuple[Path, Path] | bool | None = True, timeout: float = 10,
             **headers: str | None) -> requests.Response:
        """Send events, or lines as they are, as a box does; ``cert=None`` shows none; ``headers`` as ``Name_Part``."""
        lines = (event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() for event in events)
        body = gzip.compress(b"".join(line + b"\n" for line in lines))
        shown = (self.client_cert, self.client_key) if cert is True else cert
        with requests.Session() as session:
            session.trust_env = False
            return session.post(
                self.url, data=body, verify=str(self.ca_file), cert=tuple(map(str, shown)) if shown else None, timeout=timeout,
                headers={"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
                | {name.replace("_", "-"): value for name, value in headers.items()})


class Relay:
    """A TCP relay that cuts or slows what the client sends. It sees only TLS records."""

    def __init__(self, port: int, to_port: int, *, cut_after: int | None = None, bytes_per_s: int | None = None) -> None:
        self._to, self._cut_after, self._rate = to_port, cut_after, bytes_per_s
        self._open: set[socket.socket] = set()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut what goes through."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for each in list(self._open):
            _reset(each)

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._open |= {client, server}
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while self._cut_after is None or passed < self._cut_after:
                most = 65536 if self._cut_after is None else self._cut_after - passed
                if self._rate:  # the handshake goes through at full speed
                    most = HANDSHAKE - passed if passed < HANDSHAKE else max(1, self._rate // 10)
                piece = client.recv(most)
                if not piece:
                    break
                server.sendall(piece)
                passed += len(piece)
                if self._rate and passed >= HANDSHAKE:
                    time.sleep(len(piece) / self._rate)
        _reset(server)
        _reset(client)

    @staticmethod
    def _pump(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                client.sendall(piece)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _reset(each: socket.socket) -> None:
    """Close with RST, as a link that breaks does, not with an orderly FIN."""
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.shutdown(socket.SHUT_RD)  # wakes the other thread's recv
    each.close()


def _cut_answer(text: str, port: int) -> str:
    """Return the configuration in which a second server stores the batch, and its answer makes the first hang up."""
    text = _swap(text, EVENTS, "location = /hang-up { internal; return 444; }\n\n        " + EVENTS)
    text = _swap(text, "proxy_pass http://clickhouse/?$statement;", f"proxy_pass http://127.0.0.1:{port}/?$statement;")
    return _swap(text, "upstream clickhouse {", f"""server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{ add_header X-Accel-Redirect /hang-up always; proxy_pass http://clickhouse; }}
    }}
    upstream clickhouse {{""")


def _swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"nginx.conf has {text.count(old)} times: {old}"
    return text.replace(old, new)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    return False


def _accepts(pid: int) -> bool:
    """Return whether an nginx worker still takes connections; one that is told to end says so in its title."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"worker process" in title and b"shutting down" not in title
    return False


def _until(condition, what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {_WAIT_S} s: {what}"
        time.sleep(0.01)
