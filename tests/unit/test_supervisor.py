"""What the supervisor lets go of when the start comes to nothing."""

import threading
from types import SimpleNamespace

import pytest

from agent import supervisor as module
from agent.config import Config, Device, StatusSection
from agent.errors import EngineError
from agent.supervisor import Supervisor


@pytest.mark.parametrize("when", ["before", "while loading"])
def test_the_sensors_are_let_go_of_when_it_ends_before_the_governor_begins(tmp_path, monkeypatch, when):
    closed, asked = [], []

    def opened(wanted, sysfs, *, wait):
        asked.append((wanted, wait))
        return SimpleNamespace(close=lambda: closed.append(True))

    def fail(*_a, **_k):
        assert not closed
        raise EngineError("not today")
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(module, "open_telemetry", opened)
    monkeypatch.setattr(module.assembly, "open_state_dir", lambda _: tmp_path)
    monkeypatch.setattr(module.assembly, "recipe_of", lambda _: SimpleNamespace(classes=()))
    if when == "before":
        monkeypatch.setattr(module, "PowerMode", fail)
    else:
        monkeypatch.setattr(module, "Serving", lambda *_: SimpleNamespace(first=fail, loading_for_s=lambda: 0.0))
    config = Config(device=Device(state_dir=str(tmp_path)), status=StatusSection(socket=str(tmp_path / "socket")))
    with pytest.raises(EngineError, match="not today"):
        Supervisor(config).run()
    assert closed == [True]
    assert asked == [("auto", True)], "sensors that are not there yet end nothing"
