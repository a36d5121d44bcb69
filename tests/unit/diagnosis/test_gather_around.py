"""Gathering what is around an agent, against real things: a TLS server, pictures, disks, stores, a tree of a Jetson's /sys."""

import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.building.forms import Form
from agent.building.store import Store
from agent.config import BudgetSection, Config, Device, QuietHours, SourceSection, UpstreamSection
from agent.diagnosis import gather_around as gathering
from agent.diagnosis import probe_box
from agent.diagnosis.asking import Asker, told
from agent.diagnosis.inquiries import SensorsInquiry, SourceInquiry
from agent.diagnosis.probe_box import probe_disk, probe_store
from agent.diagnosis.service_facts import Account, Running
from agent.fingerprint import platform
from agent.units import Timeout, Watts
from tests.helpers.engines import parts
from tests.helpers.orin_tree import NX_WATTS, build
from tests.helpers.upstream_server import Answer, ScriptedUpstream, only_tls_1_1
from tests.unit.building.test_store import put, tuned
from tests.unit.test_status import snapshot

trustme = pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")
NOBODY = Running(socket="/run/x.sock", answers="nobody", said="no agent answers")
SECRET = "hunter2-and-more"


@pytest.fixture
def ask(tmp_path):
    return Asker(lambda _: None, 30, tmp_path)


@pytest.fixture
def server(tmp_path):
    with ScriptedUpstream(tmp_path / "server") as running:
        yield running


def section(server, **more):
    return UpstreamSection(**{"url": server.url, "ca_file": str(server.certificates.ca_file), "read_timeout": Timeout(2), "connect_timeout": Timeout(2), **more})


# upstream ----------------------------------------------------------------------------------------------------------


def test_an_upstream_is_asked_with_its_token_and_nothing_is_delivered(server, tmp_path, ask):
    (tmp_path / "token").write_text(SECRET)
    found = gathering._upstream(section(server, token=f"file:{tmp_path}/token"), ask)
    assert (found.status, found.kind, found.tls, found.token, found.addresses) == (204, "ack", "TLSv1.3", True, ("127.0.0.1",))
    assert [one["Authorization"] for one in server.requests] == [f"Bearer {SECRET}"]
    assert server.events() == []
    assert [one.role for one in found.certificates] == ["ca", "server"]
    assert all(one.ends > time.time() for one in found.certificates)
    assert SECRET not in repr(found)


@pytest.mark.parametrize("more", [{"format": "ndjson"}, {"format": "json", "compression": "none"}])
def test_the_empty_batch_goes_the_way_of_the_events(server, ask, more):
    server.script.append(Answer(200))
    assert gathering._upstream(section(server, **more), ask).kind == "ack"
    assert server.requests[0]["Content-Type"] == {"ndjson": "application/x-ndjson", "json": "application/json"}[more["format"]]
    assert server.requests[0].get("Content-Encoding") == (None if "compression" in more else "gzip")


@pytest.mark.parametrize(("answer", "kind", "reason"), [
    (Answer(401), "hold", "token or certificate refused"), (Answer(405), "hold", "takes no POST"), (Answer(400), "reject", "bad request"),
    (Answer(503), "retry", "service unavailable"), (Answer(302, {"Location": "https://127.0.0.1:1/"}), "hold", "redirects are not followed"),
    (Answer(garbage=b"SSH-2.0-x\r\n"), "retry", ""),
])
def test_what_the_receiver_answers_is_told_as_the_agent_would_judge_it(server, ask, answer, kind, reason):
    server.script.append(answer)
    found = gathering._upstream(section(server), ask)
    assert (found.kind, found.status) == (kind, 0 if answer.garbage else answer.status)
    assert reason in found.reason


def test_a_receiver_that_takes_the_request_and_says_nothing_ends_in_time(server, ask):
    server.script.append(Answer(hang=threading.Event()))
    began = time.monotonic()
    found = gathering._upstream(section(server, read_timeout=Timeout(1)), ask)
    assert found.reason == "no answer in time"
    assert time.monotonic() - began < 15


def test_reasons_of_tls(server, tmp_path, ask):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    assert "certificate not trusted" in gathering._upstream(section(server, ca_file=str(tmp_path / "other.pem")), ask).reason
    assert server.requests == [], "nothing is sent to one that is not who it should be"
    (tmp_path / "none.pem").write_text("no certificate")
    found = gathering._upstream(section(server, ca_file=str(tmp_path / "none.pem")), ask)
    assert "none.pem" in found.secrets_fault
    assert [(one.role, bool(one.fault)) for one in found.certificates] == [("ca", True)]
    with ScriptedUpstream(tmp_path / "old", tweak=only_tls_1_1) as old:
        assert gathering._upstream(section(old), ask).reason.startswith("TLS refused")


def test_a_name_that_does_not_exist_and_a_port_that_nobody_holds(ask):
    assert gathering._upstream(UpstreamSection(url="https://no-such-host.invalid/x"), ask).name_fault
    found = gathering._upstream(UpstreamSection(url="https://127.0.0.1:1/x"), ask)
    assert found.reason == "connection refused"
    proxied = gathering._upstream(UpstreamSection(url="https://127.0.0.1:1/x", proxy="http://me:pass-of-proxy@127.0.0.1:1"), ask)
    assert proxied.reason.startswith("proxy: ")
    assert proxied.proxy == "http://***@127.0.0.1:1"


def test_client_certificates_are_asked_for_their_end(tmp_path, ask):
    authority, soon = trustme.CA(), datetime.now(timezone.utc) + timedelta(days=9)
    authority.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    mine = authority.issue_cert("box-1", not_after=soon)
    (tmp_path / "cert.pem").write_bytes(mine.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(mine.private_key_pem.bytes())
    with ScriptedUpstream(tmp_path / "server", client_ca=tmp_path / "clients.pem") as server:
        found = gathering._upstream(section(server, client_cert=str(tmp_path / "cert.pem"), client_key=f"file:{tmp_path}/key.pem"), ask)
        assert found.kind == "ack"
        assert next(one.ends for one in found.certificates if one.role == "client") == pytest.approx(soon.timestamp(), abs=2)
        assert gathering._upstream(section(server), ask).kind != "ack", "without one it is turned away"


def test_a_secret_that_is_not_there_is_told_and_nothing_is_asked(server, tmp_path, ask, monkeypatch):
    found = gathering._upstream(section(server, token=f"file:{tmp_path}/none"), ask)
    assert "No such file" in found.secrets_fault
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "/etc/vedette/credentials/fleet" in gathering._upstream(section(server, token="credential:fleet"), ask).remedy
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "fleet").write_text(SECRET)
    assert gathering._upstream(section(server, token="credential:fleet"), ask).kind == "ack"
    assert len(server.requests) == 1


def test_what_only_the_service_may_read_is_not_known(server, tmp_path, ask, monkeypatch):
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setattr("agent.diagnosis.secret_files.os.access", lambda *_: False)  # root may read everything
    found = gathering._upstream(section(server, token=f"file:{tmp_path}/token"), ask)
    assert found.unsure
    assert found.remedy == "run it with sudo"


# sources -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    cv2, numpy = pytest.importorskip("cv2", reason="needs OpenCV: install the extra cpu"), pytest.importorskip("numpy")
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), numpy.full((48, 64, 3), 90, numpy.uint8))
    return folder


def source(ask, url, running=NOBODY, said=None, **more):
    return gathering._source("door", SourceSection(url=url, **more), ask, running, said)


def test_a_frame_is_really_read(pictures, ask):
    found = source(ask, f"images://{pictures}")
    assert (found.width, found.height, found.fault, found.asked) == (64, 48, None, "opened")
    assert found.first_frame_s > 0
    gone = source(ask, f"images://{pictures.parent}/none")
    assert "none" in gone.fault
    assert gone.remedy


def test_sources_that_do_not_answer_are_asked_side_by_side_and_given_up(tmp_path, ask):
    pytest.importorskip("cv2", reason="needs OpenCV: install the extra cpu")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/1"
        (tmp_path / "secret").write_text(SECRET)
        cameras = {f"c{number}": SourceSection(url=url, open_timeout=Timeout(1.5), read_timeout=Timeout(1), username="viewer", password=f"file:{tmp_path}/secret")
                   for number in range(3)}
        began = time.monotonic()
        found = gathering.gather_around(Config(source=cameras, device=Device(state_dir=str(tmp_path / "state"))), tmp_path / "state", ask, NOBODY, None, root=tmp_path)
    assert time.monotonic() - began < 30
    assert [one.fault is not None and one.width is None for one in found.sources] == [True] * 3
    assert SECRET not in repr(found)
    assert found.disk.fault == "it is not there yet"
    assert found.upstream is None


def test_a_decoder_that_kills_its_process_is_a_fault_of_the_source(pictures, ask, tmp_path, monkeypatch):
    made = tmp_path / "made"
    made.mkdir()
    (made / "cv2.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", str(made), prepend=":")
    assert source(ask, f"images://{pictures}").fault == "it crashes: SIGSEGV ended the process that looked at it"


def test_a_camera_that_the_agent_holds_is_not_opened_a_second_time(tmp_path):
    def never(*_, **__):
        raise AssertionError("it was opened")

    view = snapshot().sources[0]
    running = Running(socket="s", answers="answers")
    live = snapshot(sources=[gathering.msgspec.structs.replace(view, name="door", state="live", width=640, height=480)])
    found = source(never, "v4l2:///dev/video0", running, live)
    assert (found.asked, found.state, found.width, found.fault) == ("agent", "live", 640, None)
    black = snapshot(sources=[gathering.msgspec.structs.replace(view, name="door", state="black", reason="black for 9 s")])
    assert source(never, "csi://0", running, black).fault == "the agent says: black, black for 9 s"
    hangs = source(never, "v4l2:///dev/video0", Running(socket="s", answers="hangs"))
    assert hangs.unsure
    assert hangs.asked == "not asked"


def test_a_camera_that_is_not_there_or_may_not_be_opened(tmp_path, ask, monkeypatch):
    assert "there is no /dev/video77" in source(ask, "v4l2:///dev/video77").fault
    monkeypatch.setattr(gathering.os, "access", lambda *_: False)
    found = source(ask, "v4l2:///dev/null")
    assert "this user may not open it" in found.fault
    assert "join group" in found.remedy
    monkeypatch.setattr(gathering, "account", lambda _: None)
    assert not source(ask, "v4l2:///dev/null").unsure, "there is no service that could"
    monkeypatch.setattr(gathering, "account", lambda _: Account(name="vedette", uid=0, gids=(0,), groups=()))
    assert source(ask, "v4l2:///dev/null").unsure, "the service may"
    assert source(ask, f"file://{tmp_path}").unsure
    assert "scheme is not known" in source(ask, "gopher://x").fault


def test_a_secret_reaches_a_child_by_its_file_only():
    inquiry = SourceInquiry(name="a", url="rtsp://x/1", password_file="/etc/secret")
    with told(inquiry) as file:
        assert Path(file).stat().st_mode & 0o777 == 0o600
        assert "/etc/secret" in Path(file).read_text()
    assert not Path(file).exists()


# disk, store, sensors, jtop ----------------------------------------------------------------------------------------


def test_the_disk_is_written_and_nothing_stays(tmp_path):
    found = probe_disk(str(tmp_path))
    assert found.fault is None
    assert 1 << 20 <= found.written <= 8 << 20
    assert found.rate > 0
    assert found.commit_s > 0
    assert list(tmp_path.iterdir()) == []
    assert probe_disk(str(tmp_path / "none")).fault == "No such file or directory"


def test_a_slow_disk_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_box, "_LONGEST_WRITE_S", 0.1)
    monkeypatch.setattr(probe_box.os, "fsync", lambda _: time.sleep(0.06))
    found = probe_disk(str(tmp_path))
    assert found.written == 2 << 20
    assert found.commit_s >= 0.06


def test_a_nearly_full_disk_is_not_filled(tmp_path, ask):
    assert gathering._disk(tmp_path, 1000, ask).fault == "too little room to try"


def test_the_store_is_told_and_left_as_it_is(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: install the extra cpu")
    here = parts(platform=platform("onnxruntime", None, 1))
    tuned(tmp_path, b"good", of=here)
    put(tmp_path, b"bad", of=parts(recipe="other")).path.write_bytes(b"flipped")
    aside = put(tmp_path, b"aside", Form.FP32, parts(recipe="third"))
    Store(tmp_path).quarantine(aside, "it failed while it served: boom")
    alone = tmp_path / "engines/small/built/feed/fp32.engine"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(b"x")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = probe_store(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    by_name = {one.recipe: one for one in found.engines}
    assert (by_name["small"].serves, by_name["small"].whole, by_name["small"].misfit) == (True, True, ())
    assert (by_name["other"].serves, by_name["other"].whole) == (False, False)
    assert by_name["other"].misfit, "it was built for another processor"
    assert found.quarantined == (("third", "it failed while it served: boom"),)
    assert {name.split("/")[0]: why for name, why in found.damaged} == {"other": "its content is not what its card says", "small": "it has no card"}
    assert probe_store(str(tmp_path / "none")).engines == ()


def test_the_sensors_that_the_budget_goes_by_are_asked(tmp_path, ask):
    build(tmp_path / "sys", "nx")
    found = gathering._sensors(BudgetSection(telemetry="sysfs", sysfs=str(tmp_path / "sys")), ask, None)
    assert found.watts == pytest.approx(NX_WATTS)
    assert found.celsius is not None
    assert found.memory
    empty = gathering._sensors(BudgetSection(telemetry="sysfs", sysfs=str(tmp_path / "none")), ask, None)
    assert "sysfs" in empty.fault
    with told(SensorsInquiry(telemetry="off", sysfs="/sys")) as file:
        assert probe_box.probe_sensors(file).trouble == "telemetry is off"


def test_which_limits_there_are():
    quiet = QuietHours(begin="22:00", end="06:00", watts=Watts(5))
    assert gathering.limits_of(BudgetSection(quiet_hours=[quiet])).watts
    assert not gathering.limits_of(BudgetSection()).watts
    assert gathering.limits_of(BudgetSection(nvpmodel="15W")).settings


class MadeLink:
    """Stands for the connection to jtop's service."""

    def __init__(self, why):
        self.why = why

    def __call__(self, interval_s, take):
        if self.why is None:
            take(object())
        return SimpleNamespace(ended=lambda: self.why or "")


@pytest.mark.parametrize(("why", "trouble"), [(None, ""), ("the versions differ: `pip install x`", "the versions differ: `pip install x`"), ("", "jtop.service gave no sample")])
def test_jtop_is_asked_for_one_sample(monkeypatch, why, trouble):
    monkeypatch.setattr("agent.power.jtop_client.Link", MadeLink(why))
    monkeypatch.setattr(probe_box, "version", lambda _: "4.3.2")
    monkeypatch.setattr(probe_box, "_JTOP_S", 0.3)
    found = probe_box.probe_jtop()
    assert found.package == "4.3.2"
    assert found.trouble.startswith(trouble)
    assert bool(found.trouble) == bool(trouble)


def test_without_its_socket_jtop_is_not_asked(tmp_path):
    def never(*_, **__):
        raise AssertionError("it was asked")

    found = gathering._jtop(never, tmp_path)
    assert (found.socket, found.trouble) == (False, None)
