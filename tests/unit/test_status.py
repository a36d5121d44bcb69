import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from agent.errors import AgentError, ConfigError
from agent.metrics import prometheus
from agent.snapshot import SCHEMA, LimitView, Snapshot, SourceView, SpoolView, StageView, UpstreamView
from agent.status import StatusServer, ask, fetch


def snapshot(**changes):
    values = dict(
        schema=SCHEMA, version="1", device="box", run_id="r", pid=1, state="running", doing="", ready=True, uptime_s=5.0, first_result_s=None,
        problems=[], engine=None, found={"face": 3}, heartbeats={},
        sources=[SourceView(name='do"or', url="rtsp://x", state="live", reason="", since_s=1, last_frame_age_s=None, width=None, height=None,
                            seen=10, processed=4, skipped={"busy": 6}, reconnects=0, hung=0, seen_rate=1, processed_rate=1)],
        stages={"infer": StageView(count=1, total_count=9, total_s=1.5, p50_ms=2.0, p95_ms=None, p99_ms=3.0, longest_ms=3.0)},
        spool=SpoolView(depth=2, pending=0, bytes=9, oldest_age_s=None, appended=2, committed=2, acked=0, failed_commits=0, refused={"full": 1}),
        upstream=UpstreamView(state="idle", reason="", since_s=0, last_ack_age_s=None, delivered_events=0, delivered_batches=0, attempts=0,
                              next_try_in_s=None),
        budget={"watts": LimitView(limit=9.0, reading=None, unit="W", enforced=False)})
    return Snapshot(**{**values, **changes})


@pytest.fixture
def served(tmp_path):
    state = {"snapshot": snapshot(), "alive": True}
    server = StatusServer(tmp_path / "s.sock", lambda: state["snapshot"], lambda: state["alive"])
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield tmp_path / "s.sock", state
    server.close()
    thread.join(5)
    assert not thread.is_alive()
    assert not (tmp_path / "s.sock").exists()


def test_what_is_served_comes_back_whole(served):
    path, state = served
    assert fetch(path) == state["snapshot"]
    assert path.stat().st_mode & 0o777 == 0o660


def test_health_pages_follow_the_state(served):
    path, state = served
    assert [ask(path, page)[0] for page in ("/health/live", "/health/ready", "/nothing")] == [200, 200, 404]
    state["alive"], state["snapshot"] = False, snapshot(ready=False)
    assert [ask(path, page)[0] for page in ("/health/live", "/health/ready")] == [503, 503]


@pytest.mark.parametrize(("changes", "code"), [
    ({}, 0), ({"problems": ["x"], "state": "degraded"}, 1), ({"ready": False, "state": "starting"}, 2), ({"state": "stopping"}, 2), ({"state": "down"}, 2)])
def test_exit_codes(changes, code):
    assert snapshot(**changes).exit_code() == code


def test_metrics_are_well_formed_and_unknown_has_no_line():
    text = prometheus(snapshot())
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    names = {line.split("{")[0].split(" ")[0] for line in samples}
    assert 'vedette_frames_skipped_total{source="do\\"or",reason="busy"} 6' in samples
    assert 'vedette_stage_seconds{stage="infer",quantile="0.99"} 0.003' in samples
    assert "vedette_stage_seconds_count" in names
    assert "vedette_budget_watts" not in names  # there is no reading
    assert "vedette_budget_watts_limit 9" in samples
    assert "vedette_source_frame_age_seconds" not in names
    for line in samples:
        float(line.rsplit(" ", 1)[1])


def test_garbage_is_refused_and_the_server_goes_on(served):
    path, _ = served
    for request in (b"", b"\xff\xfe\x00", b"POST /status HTTP/1.0\r\n\r\n", b"GET", b"A" * 10000):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
            client.settimeout(5)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100)[:12] in (b"HTTP/1.0 400", b"")
    assert ask(path, "/health/live")[0] == 200


def test_who_asks_is_answered_though_all_places_are_held(served):
    path, state = served
    idle = []
    for _ in range(8):
        client = socket.socket(socket.AF_UNIX)
        client.connect(os.fspath(path))
        idle.append(client)
    began = time.monotonic()
    assert fetch(path) == state["snapshot"]
    assert time.monotonic() - began < 1
    for client in idle:
        client.close()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(served, tmp_path):
    path, _ = served
    with pytest.raises(AgentError, match="another agent listens"):
        StatusServer(path, snapshot, lambda: True)
    stale = tmp_path / "stale.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(os.fspath(stale))
    dead.close()
    StatusServer(stale, snapshot, lambda: True).close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="something else"):
        StatusServer(path, snapshot, lambda: True)
    assert path.read_text() == "precious"


def test_a_hanging_agents_socket_is_not_stolen(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(os.fspath(path))
        hanging.listen()
        with pytest.raises(AgentError, match="another agent listens"):
            StatusServer(path, snapshot, lambda: True)
        assert path.is_socket()


@pytest.mark.parametrize("trouble", ["missing", "refused", "mute", "foreign", "too long"])
def test_asking_says_what_is_wrong(tmp_path, trouble):
    path = tmp_path / "s.sock"
    listener = socket.socket(socket.AF_UNIX)
    if trouble == "too long":
        with pytest.raises(ConfigError, match="107"):
            StatusServer(tmp_path / ("x" * 120), snapshot, lambda: True)
        listener.close()
        return
    if trouble != "missing":
        listener.bind(os.fspath(path))
    if trouble in {"mute", "foreign"}:
        listener.listen()
    if trouble == "foreign":
        threading.Thread(target=lambda: (c := listener.accept()[0], c.recv(100), c.sendall(b"SSH-2.0\r\n\r\n"), c.close())).start()
    with pytest.raises(AgentError, match={"missing": "no agent", "refused": "no agent", "mute": "does not answer", "foreign": "no vedette"}[trouble]):
        ask(path, "/status", timeout_s=0.3)
    listener.close()


def test_a_full_queue_is_waited_for_and_then_said(tmp_path):
    path, waiting = tmp_path / "s.sock", []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)
        for _ in range(2):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].connect(os.fspath(path))
        began = time.monotonic()
        with pytest.raises(AgentError, match="too many wait"):
            ask(path, "/status", timeout_s=0.5)
        assert 0.4 < time.monotonic() - began < 3
    for client in waiting:
        client.close()


def test_who_is_sent_away_asks_again(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(4)

        def serve():
            for answer in (b"", b"", b"HTTP/1.0 200 OK\r\n\r\nyes"):
                client, _ = listener.accept()
                with client:
                    client.recv(100)
                    client.sendall(answer)
        thread = threading.Thread(target=serve)
        thread.start()
        assert ask(path, "/health/live") == (200, b"yes")
        thread.join(5)


@pytest.mark.parametrize(("pause_s", "chunk", "error"), [(0, b"x" * 65536, "no vedette agent: it sends more than 16 MiB"), (0.05, b"x", "does not answer within 0.5 s")])
def test_an_answer_without_end_is_given_up(tmp_path, pause_s, chunk, error):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def serve():
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                while True:
                    client.sendall(chunk)
                    time.sleep(pause_s)
        thread = threading.Thread(target=serve)
        thread.start()
        began = time.monotonic()
        with pytest.raises(AgentError, match=error):
            ask(path, "/status", timeout_s=0.5 if pause_s else 20)
        assert time.monotonic() - began < (3 if pause_s else 20)
        thread.join(5)
        assert not thread.is_alive()


def test_another_schema_is_said(tmp_path):
    path = tmp_path / "s.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps({"schema": 99}).encode()
    threading.Thread(target=lambda: (c := listener.accept()[0], c.recv(100), c.sendall(answer), c.close())).start()
    with pytest.raises(AgentError, match="another version"):
        fetch(path)
    listener.close()


def test_asking_loads_neither_numpy_nor_opencv(served):
    path, _ = served
    code = ("import sys; from agent.cli import main; code = main(['status', '--json', '--socket', sys.argv[1]]); "
            "heavy = {'numpy', 'cv2', 'rich', 'requests', 'onnxruntime'} & set(sys.modules); "
            "assert not heavy, heavy; sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert msgspec.json.decode(done.stdout, type=Snapshot) == snapshot()
