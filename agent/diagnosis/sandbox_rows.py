"""Judge the service's user and its sandbox: does either block what the configuration needs. Pure."""

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row
from agent.diagnosis.runtimes import needs_gpu
from agent.diagnosis.service_facts import Needed, Node, Sandbox, Secret, Service

_SHOWN = 4
_SETUP = "`sudo vedette-setup`, then `sudo systemctl restart vedette`"
_NO_GPU = ("video", "dri")


def sandbox_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge what the service may touch; nothing to judge where none is installed."""
    service = facts.service
    if service is None or service.unit is None or not service.unit.installed:
        return ()
    if service.account is None:
        return (Row(name="user", verdict="fail", fatal=True, found=f"there is no user {service.user}",
                    remedy="install vedette anew, or `sudo systemd-sysusers`"),)
    groups = ", ".join(service.account.groups)
    rows = [Row(name="user", verdict="ok", found=f"{service.user}, of the groups {groups}")]
    if service.sandbox is None:
        rows.append(Row(name="sandbox", verdict="unknown", found="systemd did not say what the unit allows"))
    else:
        rows.append(_devices(facts, service, service.sandbox))
    return (*rows, _files(service), *_secrets(service), _owner(service))


def allowed(node: Node, sandbox: Sandbox) -> bool:
    """Tell whether the unit lets the service open a device node for reading and writing."""
    if sandbox.private_devices:
        return False
    if sandbox.device_policy == "auto" and not sandbox.devices:
        return True
    return any({"r", "w"} <= set(rights) and _is(node, what) for what, rights in sandbox.devices)


def _is(node: Node, what: str) -> bool:
    if what.startswith("char-"):
        return bool(node.driver) and fnmatchcase(node.driver, what.removeprefix("char-"))
    return node.path == what


def _devices(facts: Facts, service: Service, sandbox: Sandbox) -> Row:
    """Judge the device nodes: those that the configuration needs must be allowed and permitted."""
    cameras = {one.path for one in service.files if one.path.startswith("/dev/")}
    csi = any(source.url.startswith("csi:") for source in (facts.around and facts.around.sources) or ())
    gpu = needs_gpu(facts) or csi
    needed = [node for node in service.nodes if node.path in cameras or (gpu and _of_gpu(node))]
    blocked = [node for node in service.nodes if not allowed(node, sandbox)]
    closed = [node for node in service.nodes if node.access == "no"]
    for bad, why, remedy in (
            (blocked, "the unit does not allow", _SETUP),
            (closed, f"user {service.user} may not open",
             f"{_SETUP}; it adds the user to {', '.join(sorted({node.group for node in closed}))}")):
        names = [node.path for node in bad if node in needed]
        if names:
            return Row(name="devices", verdict="fail", fatal=True, found=f"{why} {_list(names)}", remedy=remedy)
    if not service.nodes:
        return Row(name="devices", verdict="ok", found="this box has no camera and no GPU device")
    unused = [node.path for node in service.nodes if node in blocked or node in closed]
    if unused:
        return Row(name="devices", verdict="ok", found=f"all that is needed; not open to it and not needed: "
                   f"{_list(unused)}")
    return Row(name="devices", verdict="ok", found=f"all {len(service.nodes)} of this box are open to it")


def _of_gpu(node: Node) -> bool:
    return not PurePosixPath(node.path).relative_to("/dev").parts[0].startswith(_NO_GPU)


def _files(service: Service) -> Row:
    """Judge the files that the configuration names: hidden ones first, for nothing else tells of them."""
    for bad in (one for one in service.files if one.hidden):
        return Row(name="files", verdict="fail", fatal=_fatal(bad), remedy=_move(bad),
                   found=f"{bad.key} = {bad.path}: the service cannot see it, {bad.hidden} hides it")
    wrong = [one for one in service.files if one.access in {"no", "not there"} and not _made(one)]
    for one in wrong:
        more = f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""
        verb = "is not there" if one.access == "not there" else (
            f"user {service.user} may not {'write' if one.write else 'read'} it")
        return Row(name="files", verdict="fail", fatal=_fatal(one), found=f"{one.key} = {one.path}: {verb}{more}",
                   remedy="correct the path" if one.access == "not there" else
                   f"`sudo chgrp {service.user} {one.path}` and `sudo chmod g+r{'w' if one.write else ''}`, "
                   "and x for each folder above it")
    doubtful = [one.path for one in service.files if one.access == "not known"]
    if doubtful:
        return Row(name="files", verdict="unknown", found=f"cannot be told for {_list(doubtful)}",
                   remedy="run it with sudo")
    return Row(name="files", verdict="ok", found=f"all {len(service.files)} that the configuration names can be used")


def _made(one: Needed) -> bool:
    """Tell whether systemd makes what is not there yet, or a source row tells of it."""
    return one.access == "not there" and (one.write or one.key.startswith("source."))


def _fatal(one: Needed) -> bool:
    return not one.key.startswith("source.") and one.key != "status.token"


def _move(one: Needed) -> str:
    if one.path.startswith("/tmp/argus"):  # noqa: S108 -- a name to compare with
        return "`sudo vedette-setup` shows it the camera service's socket; nvargus-daemon.service must be there"
    return "move it to /var/lib/vedette, /etc/vedette or /srv, and correct the configuration"


def _secrets(service: Service) -> tuple[Row, ...]:
    bad: list[Secret] = [one for one in service.secrets if not one.loaded or one.there is False]
    if not service.secrets:
        return ()
    if not bad:
        return (Row(name="credentials", verdict="ok",
                    found=f"the unit is given {', '.join(dict.fromkeys(one.name for one in service.secrets))}"),)
    one = bad[0]
    if one.there is False:
        return (Row(name="credentials", verdict="fail", fatal=True, found=f"{one.key}: there is no {one.file}",
                    remedy=f"write the secret into it (mode 0600, owner root), then {_SETUP}"),)
    return (Row(name="credentials", verdict="fail", fatal=True, remedy=_SETUP,
                found=f"{one.key}: the unit is not given credential {one.name}"),)


def _owner(service: Service) -> Row:
    name = "owner of its folders"
    if service.strangers:
        where = service.files[0].path if service.files else "/var/lib/vedette"
        state = next((one.path for one in service.files if one.key == "device.state_dir"), where)
        return Row(name=name, verdict="fail", found=f"not {service.user}'s: {_list(service.strangers)}",
                   remedy=f"`sudo chown -R {service.user}: {state}`; run `vedette engines` and the like as that user: "
                   f"`sudo -u {service.user} vedette …`")
    if service.runtime_owner not in {"", service.user}:
        return Row(name=name, verdict="warn", found=f"the status socket's folder is {service.runtime_owner}'s",
                   remedy="stop the agent that was started by hand, then restart the service")
    return Row(name=name, verdict="ok", found=f"all {service.user}'s")


def _list(names: "tuple[str, ...] | list[str]") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
