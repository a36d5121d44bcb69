"""Verdicts on what is around an agent, one made fact at a time."""

import pytest
from msgspec.structs import replace

from agent.diagnosis.around import Certificate, Disk, EngineStore, Jtop, Limits, Sensors
from agent.diagnosis.checks import checks
from agent.diagnosis.rows import exit_code
from tests.unit.diagnosis.made import AROUND, DAY, DOOR, ENGINE, FACTS, NOW, UPSTREAM, YARD, around, rows, told
from tests.unit.diagnosis.test_checks import BARE


def test_a_good_box_is_ok_in_every_row_and_every_section_is_there():
    assert {name: row for name, row in rows(FACTS).items() if row.verdict != "ok"} == {}
    assert [section.name for section in checks(FACTS)] == [
        "configuration", "machine", "device", "engines", "engine store", "pictures", "sources", "upstream", "sensors", "service", "sandbox"]
    assert exit_code(checks(FACTS)) == 0
    every = [row.name for section in checks(FACTS) for row in section.rows]
    assert len(set(every)) == len(every)


def upstream(**changes):
    return around(upstream=replace(UPSTREAM, **changes))


def certificate(role, days, **more):
    return upstream(certificates=(Certificate(role=role, file="" if role == "server" else f"/etc/{role}.pem", ends=NOW + days * DAY, **more),))


NO_ANSWER = {"status": 0, "kind": "retry", "took_s": None}


@pytest.mark.parametrize(("facts", "name", "verdict", "fatal", "words"), [
    (around(clock="unsynchronised"), "clock", "warn", False, ("time service", "timedatectl")),
    (around(clock="implausible"), "clock", "fail", False, ("not set", "TLS")),
    (around(clock="unknown"), "clock", "unknown", False, ("may not be asked",)),
    (around(disk=Disk(written=1 << 20, rate=0.4e6, commit_s=0.1)), "write speed", "warn", False, ("0.4 MB/s", "NVMe")),
    (around(disk=Disk(written=8 << 20, rate=50e6, commit_s=0.9)), "write speed", "warn", False, ("900 ms",)),
    (around(disk=Disk(fault="it hangs: no answer within 20 s")), "write speed", "fail", False, ("hangs", "dmesg")),
    (around(disk=Disk(fault="it is not there yet")), "write speed", "unknown", False, ("not there yet",)),
    (around(sources=(DOOR, replace(YARD, width=None, fault="rtsp://cam/1: no connection", remedy="power?"))), "source yard", "fail", False, ("no connection", "power?")),
    (around(sources=(replace(YARD, width=None, fault="no frame"),)), "source yard", "fail", True, ("rtsp://cam/1: no frame", "cable")),
    (around(sources=(replace(YARD, width=None, fault="may not read it", unsure=True, remedy="run it with sudo"),)), "source yard", "unknown", False, ("sudo",)),
    (around(sources=(DOOR,)), "source door", "ok", False, ("live, 1280x720", "not opened a second time")),
    (around(sources=()), "sources", "fail", True, ("none is configured", "[source.NAME]")),
    (upstream(kind="reject", status=400), "upstream", "ok", False, ("an empty batch is not taken", "not refused for its credentials")),
    (upstream(kind="hold", status=401, reason="HTTP 401: token or certificate refused"), "upstream", "fail", False, ("refused", "secret file")),
    (upstream(kind="hold", status=403, reason="HTTP 403: token or certificate refused", token=False), "upstream", "fail", False, ("token is not set",)),
    (upstream(kind="hold", status=405, reason="HTTP 405: takes no POST, check upstream.url"), "upstream", "fail", False, ("address and TLS hold", "must take POST")),
    (upstream(kind="retry", status=503, reason="HTTP 503: service unavailable"), "upstream", "warn", False, ("credentials do is not known",)),
    (upstream(**NO_ANSWER, reason="connection refused"), "upstream", "fail", False, ("connection refused", "firewall")),
    (upstream(**NO_ANSWER, reason="certificate not trusted: self signed"), "upstream", "fail", False, ("ca_file",)),
    (upstream(**NO_ANSWER, reason="proxy: connection refused", proxy="http://***@proxy:3128"), "upstream", "fail", False, ("through http://***@proxy:3128", "[upstream] proxy")),
    (upstream(**NO_ANSWER, name_fault="name or service not known"), "upstream", "fail", False, ("fleet.example cannot be resolved", "resolvectl")),
    (upstream(**NO_ANSWER, secrets_fault="secret /x is empty", remedy="write it"), "upstream", "fail", True, ("was not asked", "write it")),
    (upstream(**NO_ANSWER, secrets_fault="credential t: only root", unsure=True, remedy="run it with sudo"), "upstream", "unknown", False, ("sudo",)),
    (around(upstream=None), "upstream", "ok", False, ("stay in the spool",)),
    (certificate("client", 29.5), "client certificate", "warn", False, ("29 days", "without a restart")),
    (certificate("client", 30.5), "client certificate", "ok", False, ("30 days",)),
    (certificate("client", -3.5), "client certificate", "fail", False, ("ended 3 days ago",)),
    (certificate("ca", 400, count=3, ended=1), "CA file", "ok", False, ("the last of 3, 1 ended",)),
    (certificate("server", 3), "server certificate", "warn", False, ("runs the upstream",)),
    (upstream(certificates=(Certificate(role="ca", file="/ca", fault="no PEM"),)), "CA file", "fail", False, ("/ca: no PEM",)),
    (around(store=EngineStore(quarantined=(("centerface", "its sha256 is 1"), ("centerface", "it failed while it served")))), "quarantine", "warn", False,
     ("it failed while it served; 1 more", "vedette engines build centerface")),
    (around(store=EngineStore(damaged=(("centerface/built/x/int8.engine", "its content is not what its card says"),))), "damaged engines", "warn", False, ("int8.engine",)),
    (around(store=EngineStore(fault="this user may not look into it")), "stored engines", "unknown", False, ("sudo",)),
    (around(store=EngineStore()), "tuned engine", "warn", False, ("none yet", "vedette engines build centerface")),
    (around(store=EngineStore(engines=(replace(ENGINE, serves=False, misfit=("l4t 36.3 → 36.4.3",)),))), "tuned engine", "warn", False, ("36.3 → 36.4.3",)),
    (around(sensors=Sensors(name="sysfs", celsius=40.0, hottest="cpu", trouble="no power rail")), "[budget] watts", "fail", False, ("no power rail", "vedette sensors")),
    (around(sensors=Sensors(name="sysfs", celsius=40.0, hottest="cpu", trouble="no power rail")), "[budget] celsius", "ok", False, ("40.0 °C of cpu (sysfs)",)),
    (around(sensors=Sensors(fault="it crashes: SIGSEGV ended it")), "[budget] celsius", "fail", False, ("SIGSEGV",)),
    (around(limits=Limits(memory=True)), "[budget] memory", "ok", False, ("measured",)),
    (around(limits=Limits()), "[budget] limits", "ok", False, ("none needs a sensor", "5.1 W of VDD_IN")),
    (around(sensors=replace(AROUND.sensors, by="agent")), "[budget] watts", "ok", False, ("told by the agent that runs",)),
    (around(jtop=Jtop()), "jtop", "ok", False, ("nothing asks for it",)),
    (around(jtop=Jtop(unit="failed (dead)"), limits=Limits(telemetry="jtop")), "jtop", "fail", False, ("failed (dead)", "enable --now jtop")),
    (around(jtop=Jtop(), limits=Limits(settings=True)), "jtop", "fail", False, ("does not run",)),
    (around(jtop=replace(AROUND.jtop, trouble="jtop.service is version 4.3.2 and the package jetson-stats is 4.2.1: `pip install 'jetson-stats==4.3.*'` there")),
     "jtop", "warn", False, ("is version 4.3.2 and the package jetson-stats is 4.2.1 | `pip install",)),
    (around(jtop=replace(AROUND.jtop, agent_may=False)), "jtop", "warn", False, ("vedette may not open", "usermod -aG jtop vedette")),
    (around(jtop=replace(AROUND.jtop, agent_may=False), limits=Limits(telemetry="jtop")), "jtop", "fail", False, ("vedette-setup",)),
    (around(jtop=replace(AROUND.jtop, trouble="it hangs: no answer within 30 s")), "jtop", "warn", False, ("it hangs: no answer within 30 s | `vedette sensors`",)),
])
def test_verdict_cause_and_remedy(facts, name, verdict, fatal, words):
    found = told(facts, name)
    assert found[:2] == (verdict, fatal), found
    for word in words:
        assert word in found[2], found


def test_one_bad_camera_degrades_and_none_that_is_good_stops():
    bad = replace(YARD, width=None, fault="no frame")
    assert exit_code(checks(around(sources=(DOOR, bad)))) == 1
    assert exit_code(checks(around(sources=(replace(DOOR, fault="the agent says: black"), bad)))) == 2
    hidden = replace(DOOR, fault="cannot be asked", unsure=True)
    assert exit_code(checks(around(sources=(hidden, bad)))) == 1, "the one that is not known may see"


def test_whatever_is_wrong_has_a_remedy():
    for facts in (around(clock="implausible"), upstream(**NO_ANSWER), around(store=EngineStore(damaged=(("a", "b"),)))):
        assert all(row.remedy for row in rows(facts).values() if row.verdict in {"warn", "fail"})


def test_an_unusable_configuration_leaves_out_what_it_alone_could_tell():
    wanted = replace(FACTS.wanted, recipe="", fault="unknown key", remedy="remove it")
    found = rows(replace(around(sources=None, upstream=None), wanted=wanted))
    assert not {"upstream", "sources", "tuned engine", "[budget] limits"} & found.keys()
    assert {"jtop", "stored engines", "clock"} <= found.keys()


def test_a_box_without_a_configuration_needs_no_source():
    facts = replace(BARE, wanted=replace(BARE.wanted, file=None), around=replace(AROUND, sources=(), limits=Limits(), jtop=Jtop()))
    assert told(facts, "sources")[0] == "ok"
    assert told(facts, "tuned engine")[0] == "ok"
    assert told(replace(facts, around=replace(facts.around, store=EngineStore())), "tuned engine")[2].startswith("centerface: none yet, the prepared model serves")
