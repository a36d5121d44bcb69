"""The support archive: what helps to understand a box from afar, without its secrets, pictures and events.

Everything goes through a :class:`Scrubber`. Of files that hold pictures, events or secrets only the names and sizes
are listed. The configuration is taken apart and written anew, for a comment may hold anything.
"""

import io
import os
import platform
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import msgspec

from agent import __version__, machine
from agent.asking import MOST_STATUS
from agent.atomic import write_atomic
from agent.config import Config
from agent.diagnosis.scrub import SECRET_KEY, Scrubber
from agent.diagnosis.secret_files import CREDENTIALS, secret_file
from agent.diagnosis.service import secrets_of
from agent.errors import AgentError
from agent.reading import read_small
from agent.runs import FILE as RUNS
from agent.runs import LAST_END, LAST_START, MOST_RUNS, last_end
from agent.snapshot import LAST_STATUS
from agent.status import ask
from agent.unit import NAME

_LINES = 2000
_ASK_S = 20.0
_MOST_FILES = 5000
_MOST_BYTES = 20_000_000  # of one file; a journal of 2,000 lines takes a tenth of it
_SECRET_BYTES = 65536
_NAME = "name a file in a folder of yours: --bundle FILE.tar.gz"
_UNITS = (NAME, "vedette-tune.service")


def write_bundle(target: Path, doctor: object, config: Config | None, config_path: Path, state_dir: Path
                 ) -> list[tuple[str, int]]:
    """Write the archive, readable by this user only; return the names and sizes of what is in it.

    Args:
        target: Where to; replaced when it is there.
        doctor: What ``vedette doctor --json`` prints, as plain values.
        config: The configuration; None where it cannot be used.
        config_path: Where it stands.
        state_dir: The state directory.

    Raises:
        AgentError: it cannot be written.
    """
    scrubber = Scrubber(known_secrets(config, config_path))
    files = dict(_files(scrubber, doctor, config, config_path, state_dir))
    listed = [(name, len(content)) for name, content in files.items()]
    packed, top = io.BytesIO(), target.name.partition(".")[0]
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    try:
        write_atomic(target, packed.getvalue(), 0o600)
    except OSError as error:
        raise AgentError(f"{target}: cannot be written: {error.strerror}", _NAME) from error
    return listed


def check_place(target: Path) -> None:
    """Check that the archive can be written to ``target``, as far as that shows beforehand.

    Raises:
        AgentError: it cannot.
    """
    if not target.parent.is_dir():
        raise AgentError(f"{target}: cannot be written: {target.parent} is no folder", _NAME)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise AgentError(f"{target}: cannot be written: you may not write into {target.parent.absolute()}", _NAME)


def _files(scrubber: Scrubber, doctor: object, config: Config | None, config_path: Path, state_dir: Path
           ) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file."""
    yield "doctor.json", _json(scrubber.value(doctor))
    yield from _status(scrubber, config or Config(), state_dir)
    yield "configuration.json", _json({
        str(file): scrubber.value(_toml(file), by_key=True) for file in _toml_files(config_path)})
    yield "unit.txt", _said(scrubber, ["systemctl", "cat", "--no-pager", *_UNITS])
    yield "unit-state.txt", _said(scrubber, ["systemctl", "show", "--no-pager", NAME])
    yield "journal.txt", _said(scrubber, [
        "journalctl", "--no-pager", f"--lines={_LINES}", "--output=short-iso", *(f"--unit={name}" for name in _UNITS)])
    yield "versions.txt", "".join(f"{line}\n" for line in _versions()).encode()
    yield "state-files.txt", scrubber.text("".join(f"{line}\n" for line in _listing(state_dir))).encode()
    yield "system.txt", scrubber.text("".join(f"{line}\n" for line in _system())).encode()


def known_secrets(config: Config | None, config_path: Path) -> Iterator[str]:
    """Yield the secrets that this user can read, so that they can be taken out wherever they turn up."""
    references = [secret_file(reference).path for _, reference in secrets_of(config)] if config else []
    page = (config or Config()).socket_path.with_name("page-token")  # the service's own: it may be anything
    for path in (*filter(None, references), *_below(CREDENTIALS), page):
        try:
            yield read_small(path, _SECRET_BYTES, links=path != page).data.decode("utf-8", "replace")
        except OSError:
            continue
    for file in _toml_files(config_path):
        yield from _inline(_toml(file))


def _inline(value: object) -> Iterator[str]:
    """Yield what stands behind telling keys and is no reference: it should not be there, and yet it may."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and SECRET_KEY.search(key) and key != "username" \
                    and not item.startswith(("file:", "credential:")):
                yield item
            yield from _inline(item)
    elif isinstance(value, list):
        for item in value:
            yield from _inline(item)


def _below(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []


def _toml_files(config_path: Path) -> list[Path]:
    return [config_path, *sorted((config_path.parent / "conf.d").glob("*.toml"))]


def _toml(file: Path) -> Any:
    """Return what stands in a TOML file; of one that cannot be read no more than why: its text may hold anything."""
    try:
        return msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return "no valid TOML; `vedette config check` on the box says where"


def _status(scrubber: Scrubber, config: Config, state_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the running agent's status, and what the last run left."""
    try:
        yield "status.json", _json(scrubber.value(msgspec.json.decode(ask(config.socket_path, "/status")[1])))
    except AgentError as error:
        yield "status.txt", scrubber.text(f"{error.what}\n").encode()
    except (msgspec.DecodeError, RecursionError):
        yield "status.txt", b"what answers on the status socket gives no JSON\n"
    for name, most in ((LAST_STATUS, MOST_STATUS), (RUNS, MOST_RUNS)):
        try:
            yield name, _json(scrubber.value(msgspec.json.decode(read_small(state_dir / name, most).data)))
        except (OSError, RecursionError, msgspec.DecodeError):
            continue
    for name in (LAST_END, LAST_START):
        if words := last_end(state_dir / name)[0]:
            yield f"{name}.txt", scrubber.text(f"{words}\n").encode()


def _said(scrubber: Scrubber, command: list[str]) -> bytes:
    """Return what a command prints, or why it prints nothing."""
    reply = machine.ask(command, _ASK_S)
    if reply is None:
        return f"{command[0]} is not there\n".encode()
    end = "" if reply.code == 0 else f"\n({command[0]}: exit code {reply.code})\n"
    return scrubber.text(f"{reply.out}{reply.err}{end}"[-_MOST_BYTES:]).encode()


def _versions() -> list[str]:
    found = {f"{one.metadata['Name']}=={one.version}" for one in distributions() if one.metadata["Name"]}
    return [f"vedette {__version__}", f"Python {platform.python_version()}", *sorted(found, key=str.lower)]


def _listing(folder: Path) -> Iterator[str]:
    """Yield size, time and name of what is in the state directory; no content."""
    yield str(folder)
    count = 0
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            try:
                found = path.lstat()
            except OSError:
                continue
            count += 1
            if count > _MOST_FILES:
                yield "… and more"
                return
            changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
            yield f"{found.st_size:>12} {changed} {found.st_mode & 0o777:o} {path.relative_to(folder)}"


def _system() -> Iterator[str]:
    names = os.uname()
    yield f"{names.sysname} {names.release} {names.version} {names.machine}"
    for file in (Path("/etc/os-release"), Path("/etc/nv_tegra_release")):
        try:
            yield f"\n{file}\n{file.read_text('utf-8', 'replace').strip()}"
        except OSError:
            continue


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
