import logging

import msgspec
import pytest

from agent.config import Config, Device, StatusSection
from agent.errors import ConfigError
from agent.page.token import Door, agents_token, token_path


def config(tmp_path, token=None):
    return Config(device=Device(runtime_dir=str(tmp_path)), status=StatusSection(listen="127.0.0.1:1", token=token))


def test_a_token_is_made_for_the_group_and_anew_each_time(tmp_path):
    first, path = agents_token(config(tmp_path)), token_path(config(tmp_path))
    assert (path.read_text(), path.stat().st_mode & 0o777) == (first, 0o640)
    assert len(first) >= 22
    assert agents_token(config(tmp_path)) == path.read_text() != first


def test_a_token_that_could_be_guessed_or_not_be_written_is_an_error(tmp_path):
    (tmp_path / "t").write_text("short\n")
    with pytest.raises(ConfigError, match="fewer than 16"):
        agents_token(config(tmp_path, f"file:{tmp_path}/t"))
    (tmp_path / "t").write_text("0123456789abcdef\n")
    assert agents_token(config(tmp_path, f"file:{tmp_path}/t")) == "0123456789abcdef"
    with pytest.raises(ConfigError, match="cannot be written"):
        agents_token(config(tmp_path / "nowhere"))


def test_the_door_opens_for_the_token_and_for_its_cookie_alone():
    door, other = Door("t" * 20, "box"), Door("u" * 20, "box")
    name, _, value = door.set_cookie.partition(";")[0].partition("=")
    assert "HttpOnly; SameSite=Strict" in door.set_cookie
    assert "tttt" not in door.set_cookie
    assert door.knows_token("t" * 20, "a")
    assert not any(door.knows_token(wrong, "a") for wrong in ("", "t", "t" * 21, "ü" * 20, value, "\ud800"))
    assert door.knows_cookie(f"x=1; {name}={value}; y=2", "a")
    assert not any(door.knows_cookie(wrong, "a") for wrong in ("", value, f"{name}=", f"{name}={'t' * 20}", f"z={value}", f"{name}={value}x"))
    assert not other.knows_cookie(f"{name}={value}", "a")
    assert Door("t" * 20, "another box").set_cookie.partition("=")[0] != name


def test_wrong_tokens_are_told_once_a_minute_and_never_shown(caplog):
    now = [0.0]
    door = Door("t" * 20, "box", clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            door.knows_token("almost-the-token", "192.0.2.9")
        now[0] = 61
        door.knows_token("almost-the-token", "192.0.2.9")
    assert [record.getMessage().split(";")[1].split()[0] for record in caplog.records] == ["1", "100"]
    assert "192.0.2.9" in caplog.text
    assert "almost" not in caplog.text


def test_the_section_takes_both_keys():
    assert msgspec.convert({"listen": "127.0.0.1:8642", "token": "credential:page"}, StatusSection).listen == "127.0.0.1:8642"
