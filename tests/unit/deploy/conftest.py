import os

import pytest

from tests.unit.deploy.made_root import MadeRoot


@pytest.fixture(scope="package")
def new_box(tmp_path_factory):
    """What all boxes are copied from."""
    return MadeRoot(tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="package")
def served_box(new_box, tmp_path_factory):
    """What all boxes on which a version runs already are copied from."""
    with pytest.MonkeyPatch.context() as patch:
        clear_settings_of_pip(patch)
        box = new_box.copy(tmp_path_factory.mktemp("served"))
        box.configure()
        box.install()
    assert (box.current, box.running, box.unit()) == ("1.0.0",) * 3
    return box


@pytest.fixture
def box(new_box, tmp_path):
    """A box with systemd and nothing of vedette."""
    return new_box.copy(tmp_path)


@pytest.fixture
def served(served_box, tmp_path):
    """A box on which version 1.0.0 runs."""
    return served_box.copy(tmp_path)


@pytest.fixture(autouse=True)
def _no_settings_of_pip(monkeypatch):
    clear_settings_of_pip(monkeypatch)


def clear_settings_of_pip(patch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
