"""What is said to systemd, heard by a real socket."""

import logging
import os
import socket

import pytest

from agent.notify import Notifier


@pytest.fixture
def systemd(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(2)
        yield heard, str(tmp_path / "notify")


def test_ready_alive_extend_stopping(systemd):
    heard, path = systemd
    notifier = Notifier({"NOTIFY_SOCKET": path})
    assert notifier.listened
    notifier.ready()
    notifier.alive()
    notifier.extend(1.5)
    notifier.stopping("two\nlines ")
    assert [heard.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=ready", b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=1500000", b"STOPPING=1\nSTATUS=two lines"]


def test_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0vedette-test-{os.getpid()}")
        heard.settimeout(2)
        Notifier({"NOTIFY_SOCKET": f"@vedette-test-{os.getpid()}"}).alive()
        assert heard.recv(100) == b"WATCHDOG=1"


def test_a_status_is_sent_when_it_is_another_one_and_cut_to_a_line(systemd):
    heard, path = systemd
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.status("a")
    notifier.status("a")
    notifier.status("b" * 1000)
    notifier.ready()
    notifier.status("b" * 1000)
    assert heard.recv(4096) == b"STATUS=a"
    assert heard.recv(4096).decode() == "STATUS=" + "b" * 299 + "…"
    assert heard.recv(4096) == b"READY=1\nSTATUS=ready"
    assert heard.recv(4096).decode() == "STATUS=" + "b" * 299 + "…", "systemd shows another line meanwhile"


def test_where_nobody_listens_nothing_is_said():
    notifier = Notifier({})
    assert not notifier.listened
    notifier.ready()


def test_a_socket_that_is_gone_is_told_once_and_ends_nothing(tmp_path, caplog):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with caplog.at_level(logging.WARNING):
        notifier.alive()
        notifier.alive()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("environment", "limit"), [
    ({}, None),
    ({"WATCHDOG_USEC": "30000000"}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
])
def test_the_watchdogs_limit(environment, limit):
    assert Notifier(environment).watchdog_s == limit
