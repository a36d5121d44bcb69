"""Judge the way to the upstream: name, connection, credentials, certificates. Pure."""

import time

from agent.diagnosis.around import Certificate, Upstream
from agent.diagnosis.facts import Facts
from agent.diagnosis.rows import Row

DAY_S = 86400.0
WARN_S = 30 * DAY_S
_ROLES = {"ca": "CA file", "client": "client certificate", "server": "server certificate"}
_RENEW = {"ca": "put the authority's new certificate beside the old one in that file",
          "client": "renew it; the running agent takes the new file without a restart",
          "server": "tell whoever runs the upstream"}


def upstream_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge the upstream; without a good one events stay in the spool, so only a missing secret is fatal."""
    if facts.around is None or facts.around.sources is None:  # the configuration cannot be used
        return ()
    found = facts.around.upstream
    if found is None:
        return (Row(name="upstream", verdict="ok", found="none is configured: events stay in the spool"),)
    clock_wrong = facts.around.clock in {"implausible", "unsynchronised"}
    return (_answer(found), *(_certificate(one, facts.around.at, clock_wrong=clock_wrong)
                              for one in found.certificates))


def _answer(found: Upstream) -> Row:
    name, way = "upstream", f" through {found.proxy}" if found.proxy else ""
    if found.secrets_fault is not None:
        return Row(name=name, verdict="unknown" if found.unsure else "fail", fatal=not found.unsure,
                   found=f"{found.url} was not asked: {found.secrets_fault}", remedy=found.remedy)
    if found.name_fault is not None:
        whose = f"the proxy's name {found.host}" if found.proxy else f"the name {found.host}"
        return Row(name=name, verdict="fail", found=f"{whose} cannot be resolved: {found.name_fault}",
                   remedy="check the address, the network (`ip route`) and DNS (`resolvectl status`)")
    tls = f", {found.tls}" if found.tls else ""
    told = f"{found.url}{way}{tls}"
    if not found.status:
        return Row(name=name, verdict="fail", found=f"{told}: {found.reason or 'no answer'}",
                   remedy=_no_answer(found))
    return _status(found, told)


def _status(found: Upstream, told: str) -> Row:
    """Judge an answer."""
    name = "upstream"
    took = f" after {found.took_s:.2f} s" if found.took_s is not None else ""
    said = f"{told}: HTTP {found.status}{took}"
    credentials = "with a token" if found.token else "without a token"
    if found.kind == "ack":
        return Row(name=name, verdict="ok", found=f"{said}: an empty batch was taken, {credentials}")
    if found.kind in {"reject", "halve"}:
        return Row(name=name, verdict="ok", found=f"{said}: address and TLS hold, and the request, {credentials}, was "
                   "not refused for its credentials; an empty batch is not taken, which says nothing against full ones")
    if found.kind == "retry":
        return Row(name=name, verdict="warn", found=f"{said}: {found.reason}; address and TLS hold, whether the "
                   "credentials do is not known", remedy="nothing on this box; ask again later")
    return Row(name=name, verdict="fail", found=f"{said}: {found.reason}; address and TLS hold",
               remedy=_refused(found))


def _refused(found: Upstream) -> str:
    if found.status in {401, 403}:
        return ("ask the receiver's operator whether this box's token, or its certificate, is still good; "
                f"{'a new token goes into its secret file' if found.token else '[upstream] token is not set'}")
    if found.status in {404, 405}:
        return "correct the path in [upstream] url; it must take POST"
    return "correct [upstream] url, or ask the receiver's operator"


def _no_answer(found: Upstream) -> str:
    if "proxy" in found.reason:
        return "check [upstream] proxy: its address and login, and whether it lets this host through"
    if "certificate" in found.reason or "TLS" in found.reason:
        return "check [upstream] ca_file, client_cert and client_key, and the clock"
    return f"check that {found.host} can be reached from here (firewall, route), and its port"


def _certificate(one: Certificate, now: float, *, clock_wrong: bool) -> Row:
    name, file = _ROLES[one.role], f"{one.file}: " if one.file else ""
    if one.ends is None:
        return Row(name=name, verdict="fail", found=f"{file}{one.fault or 'its end is not known'}",
                   remedy="give a PEM file that user vedette may read")
    left_s = one.ends - now
    date = time.strftime("%Y-%m-%d", time.gmtime(one.ends))
    days = int(abs(left_s) // DAY_S)
    some = f" (the last of {one.count}, {one.ended} ended)" if one.count > 1 else ""
    doubt = "; or the box's clock is wrong" if clock_wrong else ""
    if left_s <= 0:
        return Row(name=name, verdict="fail", found=f"{file}ended {days} days ago, on {date}{some}{doubt}",
                   remedy=_RENEW[one.role])
    found = f"{file}good until {date}, {days} days{some}"
    if left_s < WARN_S:
        return Row(name=name, verdict="warn", found=f"{found}{doubt}", remedy=_RENEW[one.role])
    return Row(name=name, verdict="ok", found=found)
