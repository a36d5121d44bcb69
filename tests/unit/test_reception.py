import socket
import threading
import time

import pytest

from agent.reception import Reception, read_head, send


class Inn:
    def __init__(self, tmp_path, answer=None, **more):
        self.path = str(tmp_path / "s")
        self.most = self.inside = self.answered = 0
        self.lock = threading.Lock()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(256)
        self.reception = Reception(listener, answer or self.answer, name="guest", places=4, per_s=100.0, refusal=b"no", **more)
        self.thread = threading.Thread(target=self.reception.serve)
        self.thread.start()

    def answer(self, client):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            read_head(client, most=100, within_s=3)
            send(client, b"yes", within_s=3)
            self.answered += 1
        finally:
            with self.lock:
                self.inside -= 1

    def ask(self, said=b"\r\n\r\n"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.path)
        client.sendall(said)
        return client

    def close(self):
        self.reception.close()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture
def inn(tmp_path):
    one = Inn(tmp_path)
    yield one
    one.close()


def test_who_asks_is_answered_though_a_hundred_hold_on_to_their_places(inn):
    idle = [inn.ask(b"") for _ in range(100)]
    began = time.monotonic()
    with inn.ask() as client:
        assert client.recv(9) == b"yes"
    assert time.monotonic() - began < 100 / 4 * 0.1 + 3
    assert inn.most <= 4
    for client in idle:
        client.close()


def test_a_flood_is_taken_in_at_a_bounded_pace(inn):
    began = time.monotonic()
    for _ in range(100):
        with inn.ask() as client:
            assert client.recv(9) == b"yes"
    assert 0.5 < time.monotonic() - began < 5, "32 at once, the others 100 a second"


def test_it_ticks_also_while_clients_come(tmp_path):
    ticks = []
    inn = Inn(tmp_path, tick_s=0.05, tick=lambda: ticks.append(time.monotonic()))
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        inn.ask().close()
        time.sleep(0.01)
    inn.close()
    assert 10 <= len(ticks) <= 25


def test_who_drips_is_cut_off(inn):
    with inn.ask(b"G") as client:
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                client.sendall(b"E")
                time.sleep(0.2)
        except OSError:
            pass
    assert 2 < time.monotonic() - began < 5


def test_a_head_in_steady_drops_has_one_deadline_for_all_of_it(monkeypatch):
    now, waits = [100.0], []

    class Dripping:
        def settimeout(self, wait_s):
            assert wait_s > 0, "0 means not to wait at all, below it is refused"
            waits.append(wait_s)

        def recv(self, _most):
            now[0] += 0.25
            return b"E"
    monkeypatch.setattr("agent.reception.time.monotonic", lambda: now[0])
    with pytest.raises(TimeoutError):
        read_head(Dripping(), most=1000, within_s=1)
    assert waits == [1.0, 0.75, 0.5, 0.25]


def test_who_does_not_read_is_cut_off(tmp_path):
    done = threading.Event()

    def answer(client):
        try:
            send(client, bytes(50_000_000), within_s=0.5)
        except TimeoutError:
            done.set()
            raise
    inn = Inn(tmp_path, answer)
    with inn.ask():
        assert done.wait(5)
    inn.close()


def test_a_head_ends_at_its_empty_line_at_its_end_or_at_its_limit():
    for said, head in ((b"a\r\nb\r\n\r\nbody", b"a\r\nb"), (b"a", b"a"), (b"", b""), (b"x" * 500, b"x" * 101)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(said)
            theirs.shutdown(socket.SHUT_WR)
            assert read_head(ours, most=100, within_s=1) == head


def test_no_file_left_is_lived_with(inn, monkeypatch):
    real, left = socket.socket.accept, [3]

    def accept(self):
        if left[0]:
            left[0] -= 1
            raise OSError(24, "Too many open files")
        return real(self)
    monkeypatch.setattr(socket.socket, "accept", accept)
    with inn.ask() as client:  # the call under way is the real one
        assert client.recv(9) == b"yes"
    with inn.ask() as client:
        assert client.recv(9) == b"yes"
    assert left == [0]
