import subprocess
import sys

import pytest

from agent.config import load
from agent.errors import EXIT_CONFIG, ConfigError
from agent.secrets import read_secret

GOOD = '[source.door]\nurl = "rtsp://cam/x"\n'


def write(tmp_path, text, name="config.toml"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_units_become_numbers(tmp_path):
    config = load(write(tmp_path, GOOD + '[budget]\nwatts="9W"\nmemory="600MB"\ncelsius="85C"\nrate="10fps"\n[spool]\ncommit_interval="250ms"'))
    assert (config.budget.watts, config.budget.memory, config.budget.celsius, config.budget.rate) == (9, 600e6, 85, 10)
    assert config.spool.commit_interval == 0.25


def test_conf_d_is_laid_over_key_by_key_in_order(tmp_path):
    main = write(tmp_path, GOOD + "[engine]\nthreads=1\nmax_batch=2\n")
    write(tmp_path, '[engine]\nthreads=3\n[source.yard]\nurl="csi://0"', "conf.d/20.toml")
    write(tmp_path, "[engine]\nthreads=2\n", "conf.d/10.toml")
    config = load(main)
    assert (config.engine.threads, config.engine.max_batch, sorted(config.source)) == (3, 2, ["door", "yard"])


@pytest.mark.parametrize(("text", "key", "value"), [
    (GOOD + '[budget]\nwatts = "-9W"', "budget.watts", "-9W"),
    (GOOD + "[budget]\nwatts = 9", "budget.watts", "9"),
    (GOOD + 'frozen_after = "10"', "source.door.frozen_after", "10"),
    (GOOD + "width = 3", "source.door.width", "3"),
    (GOOD + "colour = 3", "source.door.colour", "unknown key"),
    (GOOD + "[sauce]\nx=1", "sauce", "unknown key"),
    (GOOD + "[engine]\nmax_batch = 0", "engine.max_batch", "0"),
    (GOOD + '[engine]\nrecipe = "../x"', "engine.recipe", "../x"),
    (GOOD + "[engine]\nsize = [320]", "engine.size", "[320]"),
    ('[source.door]\nusername = "x"', "source.door.url", "missing"),
    ('[source.door]\nurl = "ftp://x"', "source.door.url", "ftp"),
    ('[source."My Door"]\nurl = "csi://0"', "source.My Door", "My Door"),
    ("", "source", "no source"),
    (GOOD + '[upstream]\nurl = "http://x"', "upstream.url", "http://x"),
    (GOOD + '[upstream]\nclient_cert = "/x"', "upstream.client_cert", "go together"),
])
def test_a_bad_value_names_file_key_value_and_remedy(tmp_path, text, key, value):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    said = str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIG == 78
    assert str(path) in said
    assert key in said
    assert value in said
    assert caught.value.remedy


def test_the_file_that_is_at_fault_is_named(tmp_path):
    main = write(tmp_path, GOOD)
    faulty = write(tmp_path, '[budget]\nwatts = "9kW"', "conf.d/50-limits.toml")
    with pytest.raises(ConfigError, match=str(faulty)):
        load(main)


def test_no_secret_may_stand_in_the_file_and_none_is_repeated(tmp_path):
    for text in ('[source.door]\nurl = "rtsp://me:hunter2@cam/x"', GOOD + 'password = "hunter2"', GOOD + '[upstream]\ntoken = "hunter2"'):
        with pytest.raises(ConfigError) as caught:
            load(write(tmp_path, text))
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["a = [", "\x00", "a = 1\na = 2"])
def test_no_toml_is_said(tmp_path, text):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path, text))


def test_missing_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")


def test_secrets_come_from_files_and_credentials(tmp_path, monkeypatch):
    write(tmp_path, "hunter2\n", "token")
    assert read_secret(f"file:{tmp_path}/token") == "hunter2"
    with pytest.raises(ConfigError, match="not started by systemd"):
        read_secret("credential:token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("credential:token") == "hunter2"
    write(tmp_path, " \n", "empty")
    with pytest.raises(ConfigError, match="empty"):
        read_secret(f"file:{tmp_path}/empty")


def test_the_reference_page_is_what_the_structs_say():
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    page = subprocess.run([sys.executable, "docs/reference.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert (root / "docs/configuration.md").read_text() == page, "run `make docs`"
