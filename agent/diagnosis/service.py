"""Gather what is known of the service: its unit, what the unit allows, and what its user may open."""

import os
from collections.abc import Iterator
from pathlib import Path

from agent import __version__, machine
from agent.capture.address import ClipAddress, DeviceAddress, FolderAddress, SensorAddress, parse
from agent.config import Config
from agent.diagnosis.accounts import access, account, group_name, user_name
from agent.diagnosis.secret_files import CREDENTIALS
from agent.diagnosis.service_facts import Account, Needed, Node, Running, Sandbox, Secret, Service
from agent.errors import ConfigError
from agent.runs import last_run
from agent.unit import NAME, Unit, ask_unit

_BOOTED = "run/systemd/system"
_NODES = ("nvhost*", "nvmap", "nvgpu/*/*", "nvidia*", "video*", "dri/renderD*")
_ASKED = ("User", "SupplementaryGroups", "DevicePolicy", "DeviceAllow", "PrivateDevices", "ProtectHome", "PrivateTmp",
          "InaccessiblePaths", "BindPaths", "BindReadOnlyPaths")
_TIMEOUT_S = 10.0  # a box that swaps or builds is slow, and nobody waits for this but a person
_ARGUS = "/tmp/argus_socket"  # noqa: S108 -- where NVIDIA's camera service listens
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 -- those that PrivateTmp hides
_MOST_FILES = 2000
_SHOWN = 5


def gather_service(config: Config | None, file: Path | None, state_dir: Path, running: Running,
                   root: Path = machine.ROOT) -> Service:
    """Return what is known of the service; takes seconds at most.

    Args:
        config: The configuration; None where it cannot be used.
        file: Where it was read from; None = defaults.
        state_dir: The state directory.
        running: Who answers on the socket.
        root: What stands for ``/`` where device nodes are looked for.
    """
    systemd = (root / _BOOTED).is_dir()
    unit = ask_unit(timeout_s=_TIMEOUT_S) if systemd else None
    shown = _shown() if unit and unit.installed else {}
    user = (shown.get("User") or ["vedette"])[0] or "vedette"
    who = account(user, " ".join(shown.get("SupplementaryGroups", [])).split())
    sandbox = sandbox_of(shown, _given()) if shown else None
    ended, words = _last_end(state_dir, running)
    return Service(
        systemd=systemd, running=running, version=__version__, unit=unit, last_end=ended, last_words=words,
        sandbox=sandbox, account=who, user=user, nodes=tuple(_nodes(root, who)),
        files=tuple(_files(config or Config(), file, state_dir, who, sandbox)) if who else (),
        secrets=tuple(_secrets(config, sandbox)) if config else (),
        strangers=tuple(_strangers(state_dir, who, unit)), runtime_owner=_owner(Path(running.socket).parent))


def _shown() -> dict[str, list[str]]:
    """Ask systemd what the unit allows; a property of several values comes on several lines."""
    reply = machine.ask(["systemctl", "show", NAME, f"--property={','.join(_ASKED)}"], _TIMEOUT_S)
    found: dict[str, list[str]] = {}
    if reply is not None and reply.code == 0:
        for line in reply.out.splitlines():
            key, equals, value = line.partition("=")
            if equals and key in _ASKED:
                found.setdefault(key, []).append(value)
    return found


def _given() -> tuple[str, ...]:
    """Return the names of the credentials the unit is given; ``systemctl show`` calls them unprintable."""
    reply = machine.ask(["systemctl", "cat", NAME], _TIMEOUT_S)
    return given_credentials(reply.out) if reply is not None and reply.code == 0 else ()


def given_credentials(unit: str) -> tuple[str, ...]:
    """Return the names of the credentials that the text of a unit and its drop-ins loads; an empty value forgets."""
    names: list[str] = []
    for line in unit.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key not in {"LoadCredential", "LoadCredentialEncrypted"}:
            continue
        if not value.strip():
            names.clear()
        elif ":" in value:
            names.append(value.partition(":")[0].strip())
    return tuple(dict.fromkeys(names))


def sandbox_of(shown: dict[str, list[str]], credentials: tuple[str, ...] = ()) -> Sandbox:
    """Return what ``systemctl show`` printed as what the unit allows."""

    def one(key: str, default: str) -> str:
        return (shown.get(key) or [default])[0] or default

    words = [value.split() for value in shown.get("DeviceAllow", [])]
    binds = [value.lstrip("-").split(":") for key in ("BindPaths", "BindReadOnlyPaths")
             for line in shown.get(key, []) for value in line.split()]
    return Sandbox(
        device_policy=one("DevicePolicy", "auto"), private_devices=one("PrivateDevices", "no") == "yes",
        devices=tuple((pair[0], pair[1] if len(pair) > 1 else "rwm") for pair in words if pair),
        protect_home=one("ProtectHome", "no"), private_tmp=one("PrivateTmp", "no") != "no",
        inaccessible=tuple(" ".join(shown.get("InaccessiblePaths", [])).split()),
        binds=tuple((bind[0], bind[1] if len(bind) > 1 else bind[0]) for bind in binds),
        credentials=credentials)


def _last_end(state_dir: Path, running: Running) -> tuple[str, str]:
    """Return how the last run ended, in a word and in words; empty while it goes on, or where it is not known."""
    run = last_run(state_dir)
    if run is None or running.answers not in {"nobody", "odd"}:
        return "", ""
    return (run.ended, run.words) if run.ended else ("unknown", "it left no word: killed, crashed, or the power failed")


def _nodes(root: Path, who: Account | None) -> Iterator[Node]:
    drivers = dict(_drivers(root))
    for pattern in _NODES:
        for path in sorted(root.glob(f"dev/{pattern}")):
            try:
                found = path.stat()
            except OSError:
                continue
            if path.is_dir():
                continue
            yield Node(path=f"/{path.relative_to(root)}", driver=drivers.get(os.major(found.st_rdev), ""),
                       group=group_name(found.st_gid),
                       access=access(who, path, write=True) if who else "not known")


def _drivers(root: Path) -> Iterator[tuple[int, str]]:
    """Yield number and name of every kind of character device, as /proc/devices has them."""
    try:
        text = (root / "proc/devices").read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.partition("Block devices")[0].splitlines():
        number, _, name = line.strip().partition(" ")
        if number.isdigit():
            yield int(number), name.strip()


def _files(config: Config, file: Path | None, state_dir: Path, who: Account, sandbox: Sandbox | None
           ) -> Iterator[Needed]:
    for key, path, write in _named(config, file, state_dir):
        yield Needed(key=key, path=str(path), write=write, access=access(who, path, write=write),
                     hidden=hidden_by(path, sandbox) if sandbox else "")


def _named(config: Config, file: Path | None, state_dir: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield key, path and whether it is written to, of all that the configuration names."""
    if file:
        yield "configuration", file, False
    yield "device.state_dir", state_dir, True
    for folder in config.engine.recipes:
        yield "engine.recipes", Path(folder), False
    upstream = config.upstream
    for key, name in (("ca_file", upstream.ca_file), ("client_cert", upstream.client_cert)):
        if name:
            yield f"upstream.{key}", Path(name), False
    for key, reference in secrets_of(config):
        if reference.startswith("file:"):
            yield key, Path(reference.removeprefix("file:")), False
    for name, section in config.source.items():
        yield from ((f"source.{name}.url", *place) for place in _place(section.url))


def _place(url: str) -> Iterator[tuple[Path, bool]]:
    """Yield the file, folder or device behind a source's address, and whether it is written to; none for a stream."""
    try:
        address = parse(url)
    except ConfigError:
        return
    match address:
        case ClipAddress(path=path) | FolderAddress(path=path):
            yield path, False
        case DeviceAddress(device=device):
            yield Path(os.path.realpath(device)), True
        case SensorAddress():
            yield Path(_ARGUS), True
        case _:
            pass


def secrets_of(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and reference of every secret that the configuration names."""
    named = [("upstream.client_key", config.upstream.client_key), ("upstream.token", config.upstream.token),
             ("status.token", config.status.token),
             *((f"source.{name}.password", section.password) for name, section in config.source.items())]
    yield from ((key, reference) for key, reference in named if reference)


def hidden_by(path: Path, sandbox: Sandbox) -> str:
    """Return the setting of the unit that keeps the service from seeing ``path``; empty when none does."""
    places = [Path(os.path.normpath(path)), Path(os.path.realpath(path))]

    def below(folders: tuple[str, ...]) -> bool:
        return any(place.is_relative_to(folder) for place in places for folder in folders)

    # The camera service's socket is looked up in /tmp: the unit links it there from where /tmp is shown to it.
    shown = tuple(source for source, place in sandbox.binds if source == place or str(path) == _ARGUS)
    if shown and below(shown):
        return ""
    if sandbox.protect_home in {"yes", "tmpfs"} and below(_HOMES):
        return f"ProtectHome={sandbox.protect_home}"
    if sandbox.private_tmp and below(_TEMPORARY):
        return "PrivateTmp=yes"
    blocked = tuple(folder.lstrip("-+") for folder in sandbox.inaccessible)
    return "InaccessiblePaths" if blocked and below(blocked) else ""


def _secrets(config: Config, sandbox: Sandbox | None) -> Iterator[Secret]:
    for key, reference in secrets_of(config):
        kind, _, name = reference.partition(":")
        if kind != "credential":
            continue
        path = CREDENTIALS / name
        try:
            there: bool | None = path.stat() is not None
        except PermissionError:
            there = None
        except OSError:
            there = False
        yield Secret(key=key, name=name, loaded=sandbox is not None and name in sandbox.credentials, file=str(path),
                     there=there)


def _strangers(state_dir: Path, who: Account | None, unit: Unit | None) -> Iterator[str]:
    """Yield the first files of the state directory that the service's user does not own."""
    if who is None or unit is None or not unit.installed or not state_dir.is_dir():
        return
    shown = 0
    for number, path in enumerate((state_dir, *_walk(state_dir))):
        if number >= _MOST_FILES or shown >= _SHOWN:
            return
        try:
            owner = path.lstat().st_uid
        except OSError:
            continue
        if owner != who.uid:
            shown += 1
            yield f"{path} ({user_name(owner)})"


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        yield from (Path(where, name) for name in (*folders, *files))


def _owner(folder: Path) -> str:
    try:
        return user_name(folder.stat().st_uid)
    except OSError:
        return ""
