"""What is made of a state directory that cannot be used."""

import errno
import os
from pathlib import Path

import pytest

from agent.assembly import open_state_dir
from agent.config import Config, Device
from agent.errors import AgentError, ConfigError

FULL, READ_ONLY, WRONG = errno.ENOSPC, errno.EROFS, errno.EACCES


@pytest.mark.parametrize(("number", "there", "error"), [
    (FULL, True, None), (FULL, False, AgentError), (READ_ONLY, True, AgentError), (WRONG, True, ConfigError)])
def test_only_a_wrong_place_is_a_fault_of_the_configuration(tmp_path, monkeypatch, number, there, error):
    """A service that ends by a fault of its configuration is not started again: a full disk must not do that."""
    config = Config(device=Device(state_dir=str(tmp_path if there else tmp_path / "none")))

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(Path, "touch" if there else "mkdir", fail)
    if error is None:
        assert open_state_dir(config) == tmp_path
        return
    with pytest.raises(AgentError, match=os.strerror(number)) as caught:
        open_state_dir(config)
    assert type(caught.value) is error
