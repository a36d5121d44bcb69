"""What a start costs, and what it lets go of when it comes to nothing."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from agent import supervisor as module
from agent.config import Config, Device, StatusSection
from agent.errors import EngineError
from agent.supervisor import Supervisor


@pytest.mark.parametrize("when", ["while loading", "after loading"])
def test_the_sensors_are_looked_for_while_the_engine_loads_and_let_go_of_when_the_governor_never_begins(tmp_path, monkeypatch, when):
    closed, asked, loading = [], [], threading.Event()

    def opened(wanted, sysfs, *, wait):
        assert loading.wait(5.0)
        asked.append((wanted, wait))
        return SimpleNamespace(close=lambda: closed.append(True))

    def fail(*_a, **_k):
        assert not closed
        raise EngineError("not today")

    def first():
        loading.set()
        return fail() if when == "while loading" else SimpleNamespace(model=None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(module, "open_telemetry", opened)
    monkeypatch.setattr(module.assembly, "open_state_dir", lambda _: tmp_path)
    monkeypatch.setattr(module.assembly, "recipe_of", lambda _: SimpleNamespace(classes=()))
    monkeypatch.setattr(module.assembly, "pipeline", fail)
    monkeypatch.setattr(module, "Serving", lambda *_: SimpleNamespace(first=first, loading_for_s=lambda: 0.0))
    config = Config(device=Device(state_dir=str(tmp_path)), status=StatusSection(socket=str(tmp_path / "socket")))
    with pytest.raises(EngineError, match="not today"):
        Supervisor(config).run()
    assert closed == [True]
    assert asked == [("auto", True)], "sensors that are not there yet end nothing"


@pytest.fixture
def supervisor(tmp_path):
    return Supervisor(Config(device=Device(state_dir=str(tmp_path)), status=StatusSection(socket=str(tmp_path / "socket"))))


def test_a_camera_that_hangs_while_the_engine_loads_is_seen(supervisor):
    checked = {"door": threading.Event(), "yard": threading.Event()}
    readers = {name: SimpleNamespace(check=event.set) for name, event in checked.items()}
    loader = threading.Thread(target=lambda: [event.wait(2.0) for event in checked.values()])
    loader.start()
    supervisor._watch_loading(loader, SimpleNamespace(loading_for_s=lambda: 0.0), readers)
    assert all(event.is_set() for event in checked.values())


def test_the_power_mode_is_applied_before_an_engine_is_looked_for(supervisor):
    done = []
    loader = supervisor._begin_to_load(SimpleNamespace(first=lambda: done.append("engine") or "served"),
                                       SimpleNamespace(apply=lambda say: done.append("mode")), loaded := [])
    loader.join(5.0)
    assert (done, loaded) == (["mode", "engine"], ["served"])


def test_the_start_imports_nothing_that_only_other_commands_or_settings_need():
    code = ("import sys, agent.cli.run, agent.supervisor; from agent.config import Config; "
            "assert agent.supervisor.open_page(Config(), 'box', None, ()) is None; "
            "rest = ('agent.page.', 'agent.diagnosis', 'agent.asking', 'cv2', 'onnx', 'requests', 'cryptography', 'rich', "
            "'agent.power.jtop', 'multiprocessing', 'http.cookiejar'); "
            "found = [name for name in sys.modules if name.startswith(rest)]; assert not found, found")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
