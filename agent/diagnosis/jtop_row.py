"""Judge the service of jetson-stats. Pure."""

from agent.diagnosis.around import Jtop
from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row, Verdict

_NAME = "jtop"
_START = "`sudo systemctl enable --now jtop`; where it is not installed: `sudo pip3 install jetson-stats`"


def jtop_row(facts: Facts) -> Row:
    """Judge jtop: a fault of something that nothing asks for weighs less, away from a Jetson nothing."""
    assert facts.around is not None
    jtop, limits, sensors = facts.around.jtop, facts.around.limits, facts.around.sensors
    asked = limits.telemetry == "jtop" or limits.settings
    if not jtop.socket and asked:
        return Row(name=_NAME, verdict="fail", remedy=_START,
                   found=f"its service does not run{f': {jtop.unit}' if jtop.unit else ''}")
    used = facts.machine.jetson or asked or sensors.name.partition(" ")[0] == "jtop"
    if not jtop.socket or not used:
        does = "runs" if jtop.socket else "does not run"
        return Row(name=_NAME, verdict="ok", found=f"its service {does}, and nothing asks for it")
    return _there(jtop, "fail" if asked else "warn")


def _there(jtop: Jtop, bad: Verdict) -> Row:
    if jtop.agent_may is False:
        group = jtop.socket_group
        return Row(name=_NAME, verdict=bad, found=f"user vedette may not open /run/jtop.sock (group {group})",
                   remedy=f"`sudo vedette-setup`, or `sudo usermod -aG {group} vedette`; then restart the service")
    if jtop.trouble is None:
        return Row(name=_NAME, verdict="unknown", found="its service runs and was not asked")
    if jtop.trouble:
        found, _, remedy = jtop.trouble.rpartition(": `")
        return Row(name=_NAME, verdict=bad, found=found or jtop.trouble,
                   remedy=f"`{remedy}" if found else "`vedette sensors` says more")
    return Row(name=_NAME, verdict="ok", found=f"answers user {jtop.user}; jetson-stats "
               f"{jtop.package or 'of unknown version'} here is of the service's version")
