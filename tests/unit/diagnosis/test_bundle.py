"""The support archive holds what helps, and none of the secrets that were planted wherever one can stand."""

import contextlib
import json
import os
import socket
import stat
import tarfile
import threading

import pytest

from agent.config import load
from agent.diagnosis import bundle
from agent.diagnosis.bundle import write_bundle
from agent.errors import AgentError

PLANTED = {
    "url": "Url-secret-1", "key": "Url-secret-2", "proxy": "Proxy-secret", "inline": "Inline-secret", "comment": "Comment-secret", "file": "File-secret",
    "credential": "Credential-secret", "env": "Environment-secret", "set": "Set-secret", "journal": "Journal-secret", "logged": "File-secret", "page": "Page-secret",
    "status": "Status-secret", "broken": "Broken-secret", "event": "Event-secret", "picture": "Picture-secret", "drop_in": "Drop-in-secret", "process": "Process-secret",
}
JOURNAL = f"""2026-11-22T11:00:01+0000 box vedette[7]: source door: rtsp://admin:{PLANTED['journal']}@cam/1: no connection
2026-11-22T11:00:02+0000 box vedette[7]: upstream: token={PLANTED['journal']}
2026-11-22T11:00:03+0000 box vedette[7]: the camera said {PLANTED['credential']} and {PLANTED['file']}
2026-11-22T11:00:04+0000 box vedette[7]: Authorization: Bearer {PLANTED['journal']}
2026-11-22T11:00:05+0000 box vedette[7]: http://127.0.0.1:8642/?key=x {PLANTED['page']}
2026-11-22T11:00:06+0000 box vedette[7]: engine centerface is ready
"""
UNIT = f"""# /etc/systemd/system/vedette.service
[Service]
ExecStart=/opt/vedette/current/bin/vedette run
Environment=CAMERA_PASSWORD={PLANTED['env']}
SetCredential=fleet:{PLANTED['set']}
LoadCredential=cam:/etc/vedette/credentials/cam
# /etc/systemd/system/vedette.service.d/60-mine.conf
[Service]
Environment="A=1" "UPSTREAM_TOKEN={PLANTED['drop_in']}"
"""


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A box with a secret in every place; returns its configuration's path and its state directory."""
    etc, state, run, tools = (tmp_path / name for name in ("etc", "state", "run", "tools"))
    for folder in (etc / "conf.d", etc / "credentials", state / "frames", run, tools):
        folder.mkdir(parents=True)
    monkeypatch.setattr(bundle, "CREDENTIALS", etc / "credentials")
    (etc / "credentials/cam").write_text(PLANTED["credential"] + "\n")
    (etc / "token").write_text(PLANTED["file"])
    (run / "page-token").write_text(PLANTED["page"])
    config = etc / "config.toml"
    config.write_text(f"""# old password: {PLANTED['comment']}
[device]
state_dir = "{state}"
runtime_dir = "{run}"
[source.door]
url = "rtsp://cam/user=admin_password={PLANTED['url']}_channel=1"
username = "Admin-of-door"
password = "credential:cam"
[source.yard]
url = "rtsp://cam/1?token={PLANTED['key']}"
[upstream]
url = "https://fleet.example/events?api_key={PLANTED['key']}"
token = "file:token"
proxy = "http://proxy:3128"
""")
    (etc / "conf.d/20-mine.toml").write_text('[log]\nlevel = "debug"\n')
    (etc / "conf.d/30-broken.toml.off").write_text(PLANTED["broken"])
    (state / "spool.sqlite").write_text(PLANTED["event"])
    (state / "frames/1.png").write_text(PLANTED["picture"])
    (state / "last-status.json").write_text(json.dumps({"version": "1", "sources": [{"url": f"rtsp://u:{PLANTED['status']}@cam"}]}))
    (state / "runs.json").write_text(json.dumps([{"words": "it was stopped"}]))
    (state / "last-end").write_text("watchdog killed ABRT")
    (state / "last-start").write_text("exit-code exited 78")
    for name, text in (("journalctl", JOURNAL), ("systemctl", UNIT)):
        (tools / f"{name}.txt").write_text(text)
        (tools / name).write_text(f'#!/bin/sh\necho called with: "$@"\ncat {tools}/{name}.txt\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("VEDETTE_TOKEN", PLANTED["process"])
    return config, state


def unpacked(file):
    with tarfile.open(file) as archive:
        return {entry.name.split("/", 1)[1]: archive.extractfile(entry).read().decode() for entry in archive.getmembers()}


DOCTOR = {"verdict": "degraded", "sections": [{"name": "upstream", "rows": [{"name": "upstream", "found": f"https://u:{PLANTED['url']}@x said {PLANTED['file']}"}]}]}


def test_no_planted_secret_is_in_the_archive_and_what_helps_is(box, tmp_path):
    config, state = box
    target = tmp_path / "out.tar.gz"
    listed = write_bundle(target, DOCTOR, load(config), config, state)
    files = unpacked(target)
    everything = "\n".join((*files, *files.values()))
    assert {name for name, secret in PLANTED.items() if secret in everything} == set()
    assert "Admin-of-door" not in everything
    assert listed == [(name, len(text.encode())) for name, text in files.items()]
    assert set(files) == {"doctor.json", "status.txt", "last-status.json", "runs.json", "last-end.txt", "last-start.txt", "configuration.json", "unit.txt", "unit-state.txt", "journal.txt",
                          "versions.txt", "state-files.txt", "system.txt"}
    written = json.loads(files["configuration.json"])
    assert written[str(config)]["source"]["door"]["password"] == "credential:cam"
    assert written[str(config)]["upstream"]["token"] == "file:token"
    assert written[str(config.parent / "conf.d/20-mine.toml")] == {"log": {"level": "debug"}}
    assert "engine centerface is ready" in files["journal.txt"]
    assert "source door: rtsp://***@cam/1: no connection" in files["journal.txt"]
    assert "--lines=2000" in files["journal.txt"]
    assert "LoadCredential=cam:/etc/vedette/credentials/cam" in files["unit.txt"]
    assert "frames/1.png" in files["state-files.txt"]
    assert "spool.sqlite" in files["state-files.txt"]
    assert "msgspec==" in files["versions.txt"]
    assert "watchdog killed ABRT" in files["last-end.txt"]
    assert "exit-code exited 78" in files["last-start.txt"]


def test_only_its_owner_may_read_it_and_an_older_one_is_replaced_whole(box, tmp_path):
    config, state = box
    target = tmp_path / "out.tar.gz"
    target.write_text("older")
    write_bundle(target, DOCTOR, load(config), config, state)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        assert {(entry.mode, entry.uid, entry.isfile()) for entry in archive.getmembers()} == {(0o600, 0, True)}
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_place_that_cannot_be_written_is_an_error_with_a_remedy(box, tmp_path):
    config, state = box
    with pytest.raises(AgentError, match="cannot be written") as caught:
        write_bundle(tmp_path / "none/out.tar.gz", DOCTOR, load(config), config, state)
    assert "--bundle" in caught.value.remedy


def test_a_configuration_that_cannot_be_used_is_told_without_its_text(box, tmp_path):
    config, state = box
    (config.parent / "conf.d/40.toml").write_text(f"token = {PLANTED['broken']}")
    (config.parent / "conf.d/50.toml").write_text(f"[upstream]\ntoken = \"{PLANTED['inline']}\"\nnme = \"{PLANTED['inline']} again\"\n"
                                              f"proxy = \"http://me:{PLANTED['proxy']}@proxy:3128\"\n")
    target = tmp_path / "out.tar.gz"
    write_bundle(target, {"fault": f"upstream.nme = {PLANTED['inline']}: unknown"}, None, config, state)
    everything = "\n".join(unpacked(target).values())
    assert PLANTED["broken"] not in everything
    assert PLANTED["inline"] not in everything
    assert PLANTED["proxy"] not in everything
    assert "***@proxy:3128" in everything
    assert "no valid TOML" in everything


def test_commands_that_are_not_there_or_fail_leave_a_word(box, tmp_path, monkeypatch):
    config, state = box
    monkeypatch.setenv("PATH", str(tmp_path))
    write_bundle(tmp_path / "out.tar.gz", DOCTOR, None, config, state)
    files = unpacked(tmp_path / "out.tar.gz")
    assert files["journal.txt"] == "journalctl is not there\n"
    monkeypatch.setenv("PATH", str(tmp_path / "tools"), prepend=os.pathsep)
    (tmp_path / "tools/journalctl").write_text("#!/bin/sh\necho no rights >&2\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/bin:/usr/bin")
    write_bundle(tmp_path / "out.tar.gz", DOCTOR, None, config, state)
    assert "no rights" in unpacked(tmp_path / "out.tar.gz")["journal.txt"]
    assert "exit code 1" in unpacked(tmp_path / "out.tar.gz")["journal.txt"]


def test_a_box_without_anything_still_gives_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "CREDENTIALS", tmp_path / "none")
    write_bundle(tmp_path / "out.tar.gz", DOCTOR, None, tmp_path / "none/config.toml", tmp_path / "none")
    assert "No such file" in unpacked(tmp_path / "out.tar.gz")["configuration.json"]


class Talking:
    """An agent at the box's socket that gives the same answer to everybody."""

    def __init__(self, path, body):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(path))
        self.listener.listen()
        self.body = body
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + self.body)


def test_a_running_agents_status_is_scrubbed(box, tmp_path):
    config, state = box
    secret = PLANTED["status"]
    status = {"version": "1", "problems": [f"source door: rtsp://admin:{secret}@cam/1: no connection", f"the camera said {PLANTED['credential']}",
                                           f"upstream: https://fleet/x?token={secret}"],
              "sources": [{"name": "door", "url": f"rtsp://u:{secret}@cam/1", "reason": f"password={secret}", "state": "down"}], "page": PLANTED["page"],
              "upstream": {"headers": {"Authorization": f"Bearer {secret}"}}}
    agent = Talking(tmp_path / "run/status.sock", json.dumps(status).encode())
    with contextlib.closing(agent.listener):
        write_bundle(tmp_path / "out.tar.gz", DOCTOR, load(config), config, state)
    files = unpacked(tmp_path / "out.tar.gz")
    assert "status.txt" not in files
    assert {name for name, planted in PLANTED.items() if planted in files["status.json"]} == set()
    said = json.loads(files["status.json"])
    assert said["sources"][0]["state"] == "down"
    assert "rtsp://***@cam/1: no connection" in said["problems"][0]


def test_an_answer_of_endless_depth_does_not_end_the_doctor(box, tmp_path):
    config, state = box
    with contextlib.closing(Talking(tmp_path / "run/status.sock", b"[" * 200_000).listener):
        write_bundle(tmp_path / "out.tar.gz", DOCTOR, load(config), config, state)
    assert "gives no JSON" in unpacked(tmp_path / "out.tar.gz")["status.txt"]


@pytest.mark.parametrize("kind", ["link", "pipe", "giant"])
def test_what_the_services_user_put_there_is_neither_followed_nor_waited_for(box, tmp_path, kind):
    config, state = box
    hidden = tmp_path / "shadow"
    hidden.write_text('"root:Hidden-hash:19000"')
    for path in (state / "last-end", state / "last-start", state / "last-status.json", state / "runs.json", tmp_path / "run/page-token"):
        path.unlink()
        match kind:
            case "link":
                path.symlink_to(hidden)
            case "pipe":
                os.mkfifo(path)
            case _:
                with path.open("wb") as file:
                    file.truncate(1 << 40)
    write_bundle(tmp_path / "out.tar.gz", DOCTOR, load(config), config, state)
    files = unpacked(tmp_path / "out.tar.gz")
    assert not {"last-end.txt", "last-start.txt", "last-status.json", "runs.json"} & set(files)
    assert "Hidden-hash" not in "\n".join(files.values())
    assert "engine centerface is ready" in files["journal.txt"]


def test_a_last_end_that_is_not_systemds_is_left_out(box, tmp_path):
    config, state = box
    (state / "last-end").write_text("root:Hidden-hash:19000")
    write_bundle(tmp_path / "out.tar.gz", DOCTOR, load(config), config, state)
    assert "last-end.txt" not in unpacked(tmp_path / "out.tar.gz")
