"""Gather what is around the agent. Whatever may hang is asked side by side, each by a child with a limit."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from agent import clock, machine
from agent.capture.address import Address, ClipAddress, DeviceAddress, FolderAddress, SensorAddress, parse
from agent.config import BudgetSection, Config, SourceSection, UpstreamSection
from agent.diagnosis.accounts import access, account, group_name, user_name
from agent.diagnosis.around import Around, Disk, EngineStore, Jtop, Limits, Sensors, Source, Upstream
from agent.diagnosis.asking import Asker, handed, told
from agent.diagnosis.inquiries import SensorsInquiry, SourceInquiry, UpstreamInquiry
from agent.diagnosis.secret_files import secret_file
from agent.diagnosis.service_facts import Running
from agent.errors import ConfigError
from agent.redact import redact
from agent.snapshot import Snapshot, SourceView
from agent.unit import ask_unit

_SIDE_BY_SIDE = 8
_DISK_S = 20.0
_LEAST_ROOM = 100_000_000
_SOURCE_STARTS_S = 15.0  # until Python and OpenCV are loaded, on a small board
_LONGEST_SOURCE_S = 60.0
_CONNECT_S, _READ_S, _UPSTREAM_S = 10.0, 20.0, 60.0


def gather_around(config: Config, state_dir: Path, ask: Asker, running: Running, snapshot: Snapshot | None, *,
                  usable: bool = True, free: int | None = None, root: Path = machine.ROOT) -> Around:
    """Return what is around the agent.

    Args:
        config: The configuration, or the defaults.
        state_dir: The state directory.
        ask: Runs probes.
        running: Who answers on the status socket.
        snapshot: What it said.
        usable: ``config`` is what the box is to be run by.
        free: Bytes free in the state directory.
        root: What stands for ``/``.
    """
    disk = _disk(state_dir, free, ask)  # alone: what else is asked would slow it
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        upstream = pool.submit(_upstream, config.upstream, ask)
        store = pool.submit(ask, "store", EngineStore, lambda fault: EngineStore(fault=fault), str(state_dir))
        sensors = pool.submit(_sensors, config.budget, ask, snapshot)
        jtop = pool.submit(_jtop, ask, root)
        sources = list(pool.map(lambda one: _source(one[0], one[1], ask, running, snapshot), config.source.items()))
        return Around(
            at=time.time(), clock=clock.trust(), sources=tuple(sources) if usable else None, disk=disk,
            upstream=upstream.result(), store=store.result(), limits=limits_of(config.budget), sensors=sensors.result(),
            jtop=jtop.result())


def limits_of(budget: BudgetSection) -> Limits:
    """Return which limits there are."""
    quiet = budget.quiet_hours
    return Limits(
        telemetry=budget.telemetry, memory=budget.memory is not None,
        watts=budget.watts is not None or any(hours.watts is not None for hours in quiet),
        celsius=budget.celsius is not None or any(hours.celsius is not None for hours in quiet),
        settings=budget.nvpmodel is not None or budget.jetson_clocks is not None)


def _disk(state_dir: Path, free: int | None, ask: Asker) -> Disk:
    if not state_dir.is_dir():
        return Disk(fault="it is not there yet")
    if not os.access(state_dir, os.W_OK | os.X_OK):
        return Disk(fault="this user may not write there")
    if free is not None and free < _LEAST_ROOM:
        return Disk(fault="too little room to try")
    return ask("disk", Disk, lambda fault: Disk(fault=fault), str(state_dir), timeout_s=_DISK_S)


def _upstream(section: UpstreamSection, ask: Asker) -> Upstream | None:
    if section.url is None:
        return None
    blank = Upstream(url=redact(section.url), proxy=redact(section.proxy or ""), token=section.token is not None)
    files: dict[str, str | None] = {}
    for name, reference in (("client_key", section.client_key), ("token_file", section.token)):
        found = secret_file(reference) if reference else None
        if found and found.path is None:
            return msgspec.structs.replace(blank, secrets_fault=found.fault, remedy=found.remedy, unsure=found.unsure)
        files[name] = str(found.path) if found else None
    inquiry = UpstreamInquiry(
        url=section.url, ca_file=section.ca_file, client_cert=section.client_cert, client_key=files["client_key"],
        token_file=files["token_file"], proxy=section.proxy, format=section.format, compression=section.compression,
        connect_timeout_s=min(float(section.connect_timeout), _CONNECT_S),
        read_timeout_s=min(float(section.read_timeout), _READ_S))
    with told(inquiry) as file:
        return ask("upstream", Upstream, lambda fault: msgspec.structs.replace(blank, reason=fault), file,
                   timeout_s=_UPSTREAM_S, words="upstream")


def _sensors(budget: BudgetSection, ask: Asker, snapshot: Snapshot | None) -> Sensors:
    """Ask the running agent, for its user and its sandbox count; open the reader here where none runs."""
    if snapshot is not None and snapshot.governor is not None:
        said = snapshot.governor.reading
        return Sensors(by="agent", name=said.telemetry, watts=said.watts, measures=said.measures, celsius=said.celsius,
                       hottest=said.hottest, memory=snapshot.governor.memory.total is not None, trouble=said.trouble)
    with told(SensorsInquiry(telemetry=budget.telemetry, sysfs=budget.sysfs)) as file:
        return ask("sensors", Sensors, lambda fault: Sensors(fault=fault), file, words="sensors")


def _jtop(ask: Asker, root: Path) -> Jtop:
    socket, unit = root / "run/jtop.sock", ask_unit("jtop.service")
    found = (ask("jtop", Jtop, lambda fault: Jtop(socket=True, trouble=fault)) if socket.exists()
             else Jtop(package=_package()))
    try:
        group = group_name(socket.stat().st_gid)
    except OSError:
        group = ""
    who = account("vedette")
    may = {"yes": True, "no": False}.get(access(who, socket, write=True)) if who and found.socket else None
    return msgspec.structs.replace(found, socket_group=group, unit=unit.words if unit else "", agent_may=may,
                                   user=user_name(os.geteuid()))


def _package() -> str | None:
    try:
        return version("jetson-stats")
    except PackageNotFoundError:
        return None


def _source(name: str, section: SourceSection, ask: Asker, running: Running, snapshot: Snapshot | None) -> Source:
    """Open a source, or ask the agent that holds it."""
    seen = Source(name=name, url=redact(section.url))
    try:
        address = parse(section.url)
    except ConfigError as error:
        return msgspec.structs.replace(seen, asked="not asked", fault=error.what, remedy=error.remedy)
    if isinstance(address, SensorAddress | DeviceAddress):
        view = next((view for view in snapshot.sources if view.name == name), None) if snapshot else None
        if view is not None:
            return _as_told(seen, view)
        if snapshot is None and running.answers != "nobody":
            return msgspec.structs.replace(
                seen, asked="not asked", unsure=True, remedy="mend the row `status socket`, or run it with sudo",
                fault="the agent that runs holds it, and its status cannot be read")
    closed = _closed(seen, address)
    if closed is not None:
        return closed
    password = secret_file(section.password) if section.password else None
    if password and password.path is None:
        return msgspec.structs.replace(seen, asked="not asked", fault=password.fault, remedy=password.remedy,
                                       unsure=password.unsure)
    return _tried(name, section, ask, password.path if password else None)


def _tried(name: str, section: SourceSection, ask: Asker, secret: Path | None) -> Source:
    """Have a child open a source and read one frame; whoever it runs as, it can read the secret."""
    seen = Source(name=name, url=redact(section.url))
    if secret is None:
        return _opened(seen, section, ask, None)
    try:
        with handed(secret, ask.user) as copy:
            found = _opened(seen, section, ask, copy)
    except OSError as error:
        return msgspec.structs.replace(seen, asked="not asked", fault=f"secret {secret}: {error.strerror}",
                                       remedy="write the secret into it as text")
    return msgspec.structs.replace(found, fault=found.fault and found.fault.replace(copy, str(secret)))


def _opened(seen: Source, section: SourceSection, ask: Asker, password: str | None) -> Source:
    inquiry = SourceInquiry(
        name=seen.name, url=section.url, username=section.username,
        password_file=password,
        open_timeout_s=min(float(section.open_timeout), _LONGEST_SOURCE_S / 2),
        read_timeout_s=min(float(section.read_timeout), _LONGEST_SOURCE_S / 2),
        width=section.width, height=section.height, rate=None if section.rate is None else float(section.rate))
    limit_s = _SOURCE_STARTS_S + inquiry.open_timeout_s + inquiry.read_timeout_s
    failed: Callable[[str], Source] = lambda fault: msgspec.structs.replace(seen, fault=fault)  # noqa: E731
    with told(inquiry, ask.user) as file:
        return ask("source", Source, failed, file, timeout_s=limit_s, words=f"source {seen.name}")


def _as_told(seen: Source, view: SourceView) -> Source:
    """Return the running agent's word for a source that only one process can have."""
    live = view.state in {"live", "ended"}
    return msgspec.structs.replace(
        seen, asked="agent", state=view.state, width=view.width, height=view.height,
        fault=None if live else f"the agent says: {view.state}{f', {view.reason}' if view.reason else ''}",
        remedy="" if live else "look at the camera and its cable; `vedette status` follows it")


def _closed(source: Source, address: Address) -> Source | None:
    """Return why this user cannot open a device or a file; None where it can be tried."""
    path = Path(address.device) if isinstance(address, DeviceAddress) else (
        address.path if isinstance(address, ClipAddress | FolderAddress) else None)
    if path is None or os.access(path, os.R_OK):
        return None
    try:
        found = path.stat()
    except PermissionError:
        group, said = "", f"{path}: this user may not get there"
    except OSError:
        if not isinstance(address, DeviceAddress):
            return None  # opening it says why
        return msgspec.structs.replace(
            source, asked="not asked", fault=f"there is no {path}",
            remedy="plug the camera in; `ls /dev/v4l/by-id` shows those that are there")
    else:
        group = group_name(found.st_gid)
        said = f"{path}: this user may not open it (it belongs to group {group})"
    who = account("vedette")
    return msgspec.structs.replace(
        source, asked="not asked", fault=said, unsure=who is not None and access(who, path) != "no",
        remedy=f"run it with sudo{f', or join group {group}' if group else ''}")
