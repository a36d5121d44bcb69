import os

import pytest

from tests.unit.deploy.made_root import MadeRoot


@pytest.fixture
def box(tmp_path):
    """A box with systemd and nothing of vedette."""
    return MadeRoot(tmp_path)


@pytest.fixture
def served(box):
    """A box on which version 1.0.0 runs."""
    box.configure()
    box.install()
    assert (box.current, box.running, box.unit()) == ("1.0.0",) * 3
    return box


@pytest.fixture(autouse=True)
def _no_settings_of_pip(monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
