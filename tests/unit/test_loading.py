"""In which order an engine is loaded and warmed, and that one whose first run fails is let go of."""

import pytest

from agent import loading as module
from agent.building.forms import Form
from agent.errors import EngineError
from agent.inference import onnxruntime
from agent.loading import EngineFile, load_engine

FILE = EngineFile(path="m.onnx", name="small", identity="0" * 16, model_sha256="0" * 64, form=Form.FP32,
                  runtime="onnxruntime")


@pytest.fixture
def done(monkeypatch):
    """What was done, in turn; every engine is a stand-in that only says so."""
    said = []

    class Scripted:
        fails = False

        def __init__(self, *_, **__):
            said.append("loaded")

        def warm_up(self):
            said.append("warmed")
            if Scripted.fails:
                raise EngineError("its first run failed")

        def close(self):
            said.append("closed")

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeEngine", Scripted)
    monkeypatch.setattr(module, "give_back", lambda: said.append("gave back"))
    return said


def test_what_loading_leaves_behind_is_given_back_before_the_first_run(done):
    load_engine(FILE)
    assert done == ["loaded", "gave back", "warmed"]


def test_an_engine_whose_first_run_fails_is_closed(done, monkeypatch):
    monkeypatch.setattr(onnxruntime.OnnxRuntimeEngine, "fails", True)
    with pytest.raises(EngineError, match="its first run failed"):
        load_engine(FILE)
    assert done == ["loaded", "gave back", "warmed", "closed"]
