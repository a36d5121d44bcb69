"""Judge the service: is it installed, does it run, does it answer, and is it of this version. Pure."""

from agent.asking import LET_GO_ON
from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row
from agent.diagnosis.service_facts import Running, Service
from agent.unit import Unit

_DROP_IN = "50-box.conf"
_MANY_RESTARTS = 3
_LOG = "`journalctl -u vedette -e` says why"
_START = "`sudo systemctl enable --now vedette`"


def service_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge the service; where none is installed the agent is run by hand, which is no fault."""
    service = facts.service
    if service is None:
        return ()
    unit = service.unit
    if unit is None or not unit.installed:
        found = ("systemd gives no answer" if service.systemd and unit is None else
                 "vedette.service is not installed" if service.systemd else "no systemd runs here")
        first = Row(name="service", verdict="unknown" if service.systemd and unit is None else "ok",
                    found=f"{found}{'; an agent runs all the same' if service.running.answers == 'answers' else ''}")
        return first, *_socket(service, runs=False), *_version(service)
    return (_state(unit), *_last_end(service), *_socket(service, runs=unit.main_pid > 0), *_version(service),
            _files(unit))


def _state(unit: Unit) -> Row:
    since = "" if unit.since_s is None else f" for {_span(unit.since_s)}"
    told = f"{unit.unit_file_state or 'no state'}, {unit.words}{since}"
    restarts = f", started again {unit.restarts} times by systemd" if unit.restarts else ""
    said = f": {unit.status_text}" if unit.status_text else ""
    found = f"{told}{restarts}{said}"
    if unit.unit_file_state == "masked":
        return Row(name="service", verdict="fail", fatal=True, found=found,
                   remedy="`sudo systemctl unmask vedette`, then start it")
    if unit.active_state == "failed" or unit.sub_state == "auto-restart":
        return Row(name="service", verdict="fail", fatal=True, found=found, remedy=_LOG)
    if unit.active_state == "inactive":
        return Row(name="service", verdict="fail", fatal=True, found=f"{found}: it does not run", remedy=_START)
    if unit.unit_file_state == "disabled":
        return Row(name="service", verdict="warn", found=f"{found}; it will not start at the next boot", remedy=_START)
    if unit.restarts >= _MANY_RESTARTS:
        return Row(name="service", verdict="warn", found=found, remedy=_LOG)
    return Row(name="service", verdict="ok", found=found)


def _last_end(service: Service) -> tuple[Row, ...]:
    if not service.last_end:
        return ()
    good = service.last_end in {"stopped", "success"}
    return (Row(name="last run", verdict="ok" if good else "warn", found=service.last_words or service.last_end,
                remedy="" if good else "`journalctl -u vedette -e`; docs/operations.md has a line for each such end"),)


def _socket(service: Service, *, runs: bool) -> tuple[Row, ...]:
    """Judge who answers; nobody is a fault only where the service should."""
    running = service.running
    if running.answers == "answers":
        return (_alive(running),)
    if running.answers == "nobody":
        return (_nobody(service, runs=runs),)
    said, name = running.said, "status socket"
    rows = {
        "not permitted": Row(name=name, verdict="unknown", found=said, remedy="run it with sudo, or `sudo usermod -aG "
                             "vedette USER` and log in again"),
        "hangs": Row(name=name, verdict="fail", fatal=True, found=said, remedy=(
            f"{LET_GO_ON.format(running.pid)}; " if running.state == "stopped" else "") + "the watchdog restarts it; "
            "else `sudo systemctl restart vedette`, and keep a `vedette doctor --bundle` first"),
        "another version": Row(name=name, verdict="unknown", found=said,
                               remedy="use the `vedette` command of the same installation"),
    }
    return (rows.get(running.answers, Row(name=name, verdict="fail", found=said, remedy=_LOG)),)


def _nobody(service: Service, *, runs: bool) -> Row:
    name, socket = "status socket", service.running.socket
    if not runs:
        return Row(name=name, verdict="ok", found=f"no agent runs ({socket})")
    found = f"the service runs and nobody answers on {socket}"
    if service.unit is not None and service.unit.active_state == "activating":
        return Row(name=name, verdict="warn", found=found, remedy="it is starting: ask again in a minute")
    return Row(name=name, verdict="fail", fatal=True, found=found,
               remedy="is [status] socket another one? else `sudo systemctl restart vedette`")


def _alive(running: Running) -> Row:
    name, found = "status socket", f"answers: {running.state}, pid {running.pid or 'unknown'}"
    if running.alive is False:
        return Row(name=name, verdict="fail", fatal=True,
                   found=f"{found}, and a part of it stands still{f' ({running.stale})' if running.stale else ''}",
                   remedy="the watchdog restarts it; keep a `vedette doctor --bundle` first")
    return Row(name=name, verdict="ok", found=found)


def _version(service: Service) -> tuple[Row, ...]:
    runs = service.running.version
    if not runs:
        return ()
    if runs == service.version:
        return (Row(name="version", verdict="ok", found=f"{runs} runs, as on the disk"),)
    return (Row(name="version", verdict="warn", found=f"{runs} runs, {service.version} is on the disk",
                remedy="`sudo systemctl restart vedette` takes the one on the disk; or this is the command of another "
                "installation"),)


def _files(unit: Unit) -> Row:
    name = "unit files"
    if unit.need_reload:
        return Row(name=name, verdict="warn", found="changed since systemd read them",
                   remedy="`sudo systemctl daemon-reload`, then restart the service")
    if not any(file.endswith(f"/{_DROP_IN}") for file in unit.drop_ins):
        return Row(name=name, verdict="warn", remedy="`sudo vedette-setup`, then restart the service",
                   found=f"{unit.file}; {_DROP_IN} is not there: no memory limit, devices and credentials of this box")
    return Row(name=name, verdict="ok", found=f"{unit.file}, {', '.join(unit.drop_ins)}")


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
