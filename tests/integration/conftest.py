"""Fixtures of the tests that run the whole agent."""

import os

import pytest

from tests.helpers import media


def pytest_collection_modifyitems(items):
    """Let the emulated aarch64 box come last: its disk may still be made while the others run."""
    items.sort(key=lambda item: item.path.name == "test_arm64_box.py")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A state directory whose model is fetched and prepared, so that starts are quick."""
    folder = tmp_path_factory.mktemp("prepared")
    model = media.fetch(*media.CENTERFACE)
    assert model.exists()
    from agent.building.prepare import prepare
    from agent.building.recipe import find_recipe, recipe_folders

    prepare(find_recipe("centerface", recipe_folders()), size=None, state_dir=folder)
    return folder


@pytest.fixture
def fresh_state(prepared, tmp_path):
    """The same engine store, an empty spool."""
    for name in ("models", "engines"):
        (tmp_path / "state").mkdir(exist_ok=True)
        os.symlink(prepared / name, tmp_path / "state" / name)
    return tmp_path / "state"


@pytest.fixture
def carphone():
    return media.fetch(*media.CARPHONE)


@pytest.fixture
def out(prepared, tmp_path):
    """An --out whose model is prepared already, so that no test waits for it."""
    for name in ("models", "engines"):
        (tmp_path / "out/state").mkdir(parents=True, exist_ok=True)
        os.symlink(prepared / name, tmp_path / "out/state" / name)
    return tmp_path / "out"
