import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent.cli.config import config as command
from agent.config import Config, load
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


def test_conf_d_that_may_not_be_looked_at_is_told(tmp_path, monkeypatch):
    path = write(tmp_path, QUIET)
    (tmp_path / "conf.d").mkdir()

    def denied(_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(ConfigError, match=r"conf\.d: cannot be looked at: Permission denied"):
        load(path)


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
    # Wrong shapes.
    ('[[source]]\nurl = "csi://0"', "source", "[source.NAME]"),
    ("source = 3", "source = 3", "[source.NAME]"),
    ("source.door = 3", "source.door = 3", "[source.door]"),
    ("source.token = 3", "source.token = 3", "[source.token]"),
    (GOOD + 'read_timeout = "Object contains unknown field `x` - at `$.a`"', "source.door.read_timeout", "not a number"),
    ('source.yard = {url = "csi://0"}\nsource.door = 3', "source.door = 3", "[source.door]"),
    (GOOD + "[source.yard]\nurl = 3", "source.yard.url = 3", "Expected `str`"),
    ("engine = 3\n" + GOOD, "engine = 3", "[engine]"),
    ("engine = []\n" + GOOD, "engine", "[engine]"),
    (GOOD + "[[upstream]]\nx = 1", "upstream", "[upstream]"),
    (GOOD + "[engine]\nsize = 320", "engine.size = 320", "array"),
    (GOOD + '[engine]\nsize = ["a", "b"]', "engine.size", "`str`"),
    (GOOD + "[engine]\nrecipes = [3]", "engine.recipes", "`int`"),
    (GOOD + '[device]\nstate_dir = ""', "device.state_dir", "not of the right form"),
    # Addresses.
    ('[source.door]\nurl = "rtsp://[::1/x"', "source.door.url", "malformed"),
    ('[source.door]\nurl = "rtsp:///x"', "source.door.url", "no host"),
    ('[source.door]\nurl = "rtsp://h:99999/x"', "source.door.url", "malformed"),
    ('[source.door]\nurl = "rtsp://h:0/x"', "source.door.url", "malformed"),
    ('[source.door]\nurl = "rtsp://h/a b"', "source.door.url", "%20"),
    ('[source.door]\nurl = "rtsp://h/a@b"', "source.door.url", "%40"),
    (GOOD + '[upstream]\nurl = "https://[::1/x"', "upstream.url", "malformed"),
    (GOOD + '[upstream]\nurl = "https:///x"', "upstream.url", "no host"),
    (GOOD + '[upstream]\nurl = "https://u:p@h/x"', "upstream.url", "inside the address"),
    (GOOD + '[upstream]\nproxy = "http://u:p@h:3128"', "upstream.proxy", "inside the address"),
    (GOOD + '[upstream]\nproxy = "h:3128"', "upstream.proxy", "http://"),
    (GOOD + 'password = "file:/x"', "source.door.username", "password"),
    # Numbers that mean nothing.
    (GOOD + 'max_rate = "0fps"', "source.door.max_rate", "leave it out for no limit"),
    (GOOD + '[budget]\nrate = "0fps"', "budget.rate", "leave it out for no limit"),
    (GOOD + '[budget]\nwatts = "0W"', "budget.watts", "leave it out for no limit"),
    (GOOD + '[budget]\nmemory = "0MB"', "budget.memory", "more than 0"),
    (GOOD + '[budget]\nnvpmodel = "15W"\ntelemetry = "sysfs"', "budget.nvpmodel", "telemetry is 'sysfs'"),
    (GOOD + '[budget]\njetson_clocks = false\ntelemetry = "nvml"', "budget.jetson_clocks", "or leave jetson_clocks out"),
    (GOOD + 'open_timeout = "0s"', "source.door.open_timeout", "more than 0"),
    (GOOD + 'read_timeout = "11min"', "source.door.read_timeout", "10min"),
    (GOOD + 'retry_max = "0s"', "source.door.retry_max", "more than 0"),
    (GOOD + '[upstream]\nconnect_timeout = "0s"', "upstream.connect_timeout", "more than 0"),
    (GOOD + '[upstream]\nread_timeout = "0s"', "upstream.read_timeout", "more than 0"),
    (GOOD + '[upstream]\nretry_min = "0s"', "upstream.retry_min", "more than 0"),
    (GOOD + '[upstream]\nretry_max = "1h"', "upstream.retry_max", "10min"),
    (GOOD + '[upstream]\nretry_min = "3s"\nretry_max = "2s"', "upstream.retry_min", "retry_max, 2s"),
    (GOOD + '[spool]\nmax_bytes = "1023KiB"', "spool.max_bytes", "1MiB or more"),
    (GOOD + "[engine]\nsize = [16, 320]", "engine.size = [16, 320]", ">= 32"),
    (GOOD + "[engine]\nsize = [320, 100000]", "engine.size = [320, 100000]", "<= 4096"),
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


QUIET = '[[budget.quiet_hours]]\nbegin = "22:00"\nend = "06:00"\nrate = "1fps"\n'


@pytest.mark.parametrize(("text", "what", "remedy"), [
    # A word that is not one of those there are.
    ('[budget]\ntelemetry = "foo"', "budget.telemetry = 'foo': it has no such value", '"auto", "jtop", "sysfs", "nvml", "rapl", "off"'),
    ('[budget]\npolicy = "best"', "budget.policy = 'best': it has no such value", '"max_fps", "min_energy", "off"'),
    ("[budget]\npolicy = 3", "budget.policy = 3: Expected `str`", '"max_fps", "min_energy", "off"'),
    ('[log]\nlevel = "loud"', "log.level = 'loud'", '"debug", "info", "warning", "error"'),
    ('[engine]\nruntime = "torch"', "engine.runtime = 'torch'", '"onnxruntime", "tensorrt", "tensorrt_rtx"'),
    # Quiet hours: which entry, and what.
    (QUIET.replace("22:00", "25:00"), "budget.quiet_hours[0].begin = '25:00': this is no time of day", 'HH:MM in quotes, for example "22:00"'),
    (QUIET + QUIET.replace('"06:00"', "6"), "budget.quiet_hours[1].end = 6: this is no time of day", 'HH:MM in quotes, for example "22:00"'),
    (QUIET + QUIET.replace('"06:00"', "06:00:00"), "budget.quiet_hours[1].end: this is no time of day", "HH:MM in quotes"),
    (QUIET + QUIET.replace('end = "06:00"', ""), "budget.quiet_hours[1].end: missing", "to [[budget.quiet_hours]]"),
    (QUIET + QUIET.replace("rate", "rat"), "budget.quiet_hours[1].rat: unknown key", "keys here: begin, end, rate, watts, celsius"),
    (QUIET + QUIET.replace("06:00", "22:00"), "budget.quiet_hours[1]: begin and end are both 22:00, so they hold all day", "write another `end`"),
    (QUIET + QUIET.replace('rate = "1fps"', ""), "budget.quiet_hours[1]: it limits nothing", '`celsius = "60C"`, or remove it'),
    (QUIET.replace('rate = "1fps"', 'celsius = "5C"'), "budget.quiet_hours[0].celsius: 5C: a limit below the air's", "20C to 130C"),
    (QUIET.replace("[[", "[").replace("]]", "]"), "budget.quiet_hours: Expected `array`", "double brackets: [[budget.quiet_hours]]"),
    ('[budget]\nquiet_hours = ["22:00"]', "budget.quiet_hours[0] = '22:00': Expected `object`", "double brackets: [[budget.quiet_hours]]"),
    # Canvases.
    ("[budget]\nsizes = [480]", "budget.sizes = [480]: ", "a list of [height, width] pairs"),
    ("[budget]\nsizes = 480", "budget.sizes = 480: ", "a list of [height, width] pairs"),
    ("[budget]\nsizes = [[480, 16]]", "budget.sizes = [[480, 16]]: Expected `int` >= 32", "from 32 to 4096 pixels"),
    # Numbers.
    ('[budget]\nsafe_rate = "0fps"', "more than 0: leave it out for 1fps", "all keys"),
    ('[budget]\nwatts = "-9W"', "least possible value: it must be more than 0; write it like '9W'", "all keys"),
    ('[spool]\nmax_age = "-1s"', "least possible value: 0s; write it like", "all keys"),
    ('[budget]\ncelsius = "-300C"', "least possible value: -273.15C; write it like '85C'", "all keys"),
    ('[budget]\ncelsius = "19.9C"', "budget.celsius: 19.9C: a limit below the air's temperature pauses for ever", "20C to 130C"),
    ('[budget]\ncelsius = "131C"', "budget.celsius: 131C: no board runs at that", "20C to 130C"),
    ('[budget]\nmemory = "31MB"', "budget.memory: 31MB is less than the agent takes", "32MB or more"),
    ('[budget]\npolicy = "min_energy"\nfps = "5fps"\nrate = "4fps"', "budget.fps: 5fps can never be reached", '`fps = "4fps"` or less'),
    ('[budget]\nsafe_rate = "5fps"\nrate = "4fps"', "budget.safe_rate: 5fps is more than budget.rate allows, 4fps", '`safe_rate = "4fps"` or less'),
])
def test_what_is_wrong_and_what_to_write_instead_is_said(tmp_path, text, what, remedy):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, GOOD + text))
    assert what in caught.value.what
    assert remedy in caught.value.remedy


def test_limits_at_the_very_bounds_are_fine(tmp_path):
    budget = load(write(tmp_path, GOOD + '[budget]\nmemory="32MB"\ncelsius="20C"\nrate="4fps"\nsafe_rate="4fps"\nfps="4fps"\npolicy="min_energy"\n'
                        + QUIET.replace('rate = "1fps"', 'celsius = "130C"'))).budget
    assert (budget.celsius, budget.quiet_hours[0].celsius) == (20, 130)


def test_a_rate_below_the_default_of_safe_rate_is_fine(tmp_path):
    assert load(write(tmp_path, GOOD + '[budget]\nrate = "0.5fps"')).budget.safe_rate == 1


def test_the_file_that_is_at_fault_is_named_for_an_entry_of_a_list(tmp_path):
    main = write(tmp_path, GOOD)
    faulty = write(tmp_path, QUIET.replace("06:00", "22:00"), "conf.d/10-night.toml")
    write(tmp_path, '[budget]\nwatts = "9W"', "conf.d/50-limits.toml")
    with pytest.raises(ConfigError, match=str(faulty)):
        load(main)


def test_the_file_that_is_at_fault_is_named(tmp_path):
    main = write(tmp_path, GOOD)
    faulty = write(tmp_path, '[budget]\nwatts = "9kW"', "conf.d/50-limits.toml")
    with pytest.raises(ConfigError, match=str(faulty)):
        load(main)


def test_zero_is_fine_where_it_means_at_once_or_never(tmp_path):
    config = load(write(tmp_path, GOOD + 'frozen_after="0s"\nblack_after="0s"\n[engine]\nbatch_deadline="0ms"\n'
                        '[spool]\ncommit_interval="0s"\nmax_bytes="1MiB"\n[upstream]\nbatch_interval="0s"\ndrain="0s"'))
    assert config.source["door"].frozen_after == config.upstream.drain == config.engine.batch_deadline == 0


def test_an_unusable_value_says_where_all_keys_are(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, GOOD + "[engine]\nmax_batch = 0"))
    assert "`vedette config show` for all keys" in caught.value.remedy
    shown = CliRunner().invoke(command, ["show", "-c", str(tmp_path / "config.toml")])
    assert isinstance(shown.exception, ConfigError)
    assert all(f"\n[{section}" in shown.stdout for section in Config.__struct_fields__)
    assert "max_batch = 1" in shown.stdout
    assert "read_timeout" in shown.stdout


# Secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    '[source.door]\nurl = "rtsp://me:hunter2@cam/x"', '[source.door]\nurl = "rtsp://u:ge/hunter2@h/a"',
    '[source.door]\nurl = "rtsp://u:hunter2?x@h/a"', '[source.door]\nurl = "rtsp://u:1#hunter2@h/a"',
    '[source.door]\nurl = "rtsp://h:hunter2/a"', GOOD + 'password = "hunter2"', GOOD + 'password = ["hunter2"]',
    GOOD + 'password = {x = "hunter2"}', GOOD + 'password = "credential:hunter2/x"', GOOD + '[upstream]\ntoken = "hunter2"',
    GOOD + '[[upstream]]\ntoken = "hunter2"', '[[source]]\npassword = "hunter2"', GOOD + '[upstream]\nurl = "https://u:hunter2@h/"',
    GOOD + '[upstream]\nproxy = "http://u:hunter2@h:1/"', GOOD + '[upstream]\nurl = "http://h/?token=hunter2"',
    GOOD + '[budget]\nrate = "rtsp://u:hunter2@h"', GOOD + '[engine]\nthreads = "rtsp://h/?token=hunter2"',
])
def test_no_secret_may_stand_in_the_file_and_none_is_repeated(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["password", "token", "client_key"])
def test_a_secret_that_is_a_number_is_not_repeated(tmp_path, key):
    text = GOOD + f'username = "x"\n{"" if key == "password" else "[upstream]"}\n{key} = 12345678'
    with pytest.raises(ConfigError, match=key) as caught:
        load(write(tmp_path, text))
    assert "12345678" not in str(caught.value)
    assert "credential:NAME" in caught.value.remedy


PLACES = {
    "login": "[source.door]\nurl = {0}\n", "query": "[source.door]\nurl = {1}\n", "path": "[source.door]\nurl = {2}\n",
    "password": GOOD + 'username = "x"\npassword = {3}\n', "username": "[source.door]\nurl = {0}\nusername = 3",
    "upstream": GOOD + "[upstream]\nurl = {4}\n", "upstream query": GOOD + "[upstream]\nurl = {5}\n",
    "plain http": GOOD + "[upstream]\nurl = {6}\n", "proxy": GOOD + "[upstream]\nproxy = {7}\n",
    "token": GOOD + "[upstream]\ntoken = {3}\n", "client_key": GOOD + '[upstream]\nclient_cert = "/x"\nclient_key = {3}\n',
    "list": GOOD + "[upstream]\ntoken = [{3}]\n", "array": GOOD + "[[upstream]]\ntoken = {3}\n",
    "with a unit": GOOD + "read_timeout = {0}\n",
}


@given(secret=st.text(st.characters(min_codepoint=32, max_codepoint=383), min_size=3, max_size=20), place=st.sampled_from(sorted(PLACES)))
@example(secret="?1/", place="login")
@example(secret="/1", place="proxy")
@example(secret="@1", place="upstream query")
@example(secret="a b", place="query")
def test_a_secret_anywhere_appears_nowhere(secret, place):
    secret = f"Zq{secret}Zq"
    assume(not secret.startswith(("file:", "credential:")))
    values = [f"rtsp://u:{secret}@h/a", f"rtsp://h/a?x=1&token={secret}", f"rtsp://h/user=a_password={secret}_x=1", secret,
              f"https://{secret}:p@h/", f"https://h/?api_key={secret}", f"http://h/?pwd={secret}", f"http://u:{secret}@h:3128"]
    quoted = [json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for value in values]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), PLACES[place].format(*quoted))
        for arguments in (["show"], ["show", "--json"], ["check"], ["check", "--json"]):
            done = CliRunner().invoke(command, [*arguments, "-c", str(path)])
            assert done.exception is None or isinstance(done.exception, (ConfigError, SystemExit)), done.exception
            said = done.output + str(done.exception)
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                assert form not in said


# Showing it ---------------------------------------------------------------------------------------------------

seconds = st.integers(0, 10**9).map(lambda number: f"{number / 1000}s") | st.decimals(0, 1000, places=9).map(lambda number: f"{number:f}ms")


@given(name=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True), frozen=seconds, drain=seconds,
       rate=st.integers(1, 10**6).map(lambda number: f"{number}/h"), memory=st.integers(32 * 10**6, 10**15).map(lambda number: f"{number}B"),
       celsius=st.decimals(20, 130, places=4), score=st.floats(1e-9, 1),
       folder=st.text(st.characters(min_codepoint=1, max_codepoint=383), min_size=1))
def test_what_is_shown_loads_as_the_same_again(name, frozen, drain, rate, memory, celsius, score, folder):
    quoted = json.dumps(folder, ensure_ascii=False).replace("\x7f", "\\u007f")
    text = (f'[device]\nid = "{name}"\nstate_dir = {quoted}\n[source.{name}]\nurl = "rtsp://h/a?b=%40"\nusername = {quoted}\n'
            f'password = "file:secret"\nfrozen_after = "{frozen}"\nmax_rate = "{rate}"\n[budget]\nmemory = "{memory}"\n'
            f'celsius = "{celsius:f}C"\n[engine]\nrecipes = [{quoted}, "x"]\nsize = [320, 640]\nscore = {score!r}\n'
            f'[upstream]\nurl = "https://h/x"\nproxy = "http://p:1"\ndrain = "{drain}"\nca_file = "ca.pem"\ntoken = "credential:t"\n')
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        path = write(Path(one), text)
        shown = CliRunner().invoke(command, ["show", "-c", str(path)])
        assert shown.exit_code == 0, shown.exception
        again = write(Path(other), shown.output)
        assert load(again) == load(path)


def test_relative_paths_start_at_the_main_file(tmp_path, monkeypatch):
    for variable in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    main = write(tmp_path, GOOD + 'username = "x"\npassword = "file:door.password"\n[device]\nstate_dir = "state"\nruntime_dir = "run"\n')
    write(tmp_path, '[engine]\nrecipes = ["mine", "/abs"]\n[upstream]\nca_file = "ca.pem"\nclient_cert = "c.pem"\nclient_key = "file:c.key"\n'
          'token = "credential:t"\n[status]\nsocket = "s.sock"', "conf.d/10.toml")
    monkeypatch.chdir(tmp_path.parent)
    for path in (main, Path(tmp_path.name, "config.toml")):
        config = load(path)
        assert config.source["door"].password == f"file:{tmp_path}/door.password"
        assert (config.state_dir, config.socket_path) == (tmp_path / "state", tmp_path / "s.sock")
        assert config.device.runtime_dir == str(tmp_path / "run")
        assert config.own_recipes == [tmp_path / "mine", Path("/abs")]
        upstream = config.upstream
        assert (upstream.ca_file, upstream.client_cert) == (str(tmp_path / "ca.pem"), str(tmp_path / "c.pem"))
        assert (upstream.client_key, upstream.token) == (f"file:{tmp_path}/c.key", "credential:t")


@pytest.mark.parametrize("text", ["a = [", "\x00", "a = 1\na = 2", "a = " + "9" * 5000, "a = " + "[" * 5000])
def test_no_toml_is_said(tmp_path, text):
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path, text))


@pytest.mark.parametrize(("text", "words"), [
    ("[device]\n[device]", "Cannot declare [device] twice (at line 2"), ("[source.door]\n[source.door]", "Cannot declare [source.door] twice"),
    ("\ufeff[device]", "begins with a byte order mark"),
    ('[status]\nlisten = "localhost"', "status.listen = 'localhost': it is not of the right form\n  mend: write it like \"127.0.0.1:8642\""),
    ('[device]\nid = "Box 7"', "device.id = 'Box 7': it is not of the right form\n  mend: use lower-case letters"),
])
def test_what_a_parser_says_is_put_in_our_words(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    assert words in str(caught.value)


def test_missing_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")


def test_secrets_come_from_files_and_credentials(tmp_path, monkeypatch):
    write(tmp_path, "hunter2\n", "token")
    assert read_secret(f"file:{tmp_path}/token") == "hunter2"
    with pytest.raises(ConfigError, match=r"not started by systemd.*\n.*use sudo"):
        read_secret("credential:token")
    monkeypatch.setenv("INVOCATION_ID", "1")
    with pytest.raises(ConfigError, match=r"not started by systemd.*\n.*restart the service"):
        read_secret("credential:token")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret("credential:token") == "hunter2"
    write(tmp_path, " \n", "empty")
    (tmp_path / "bytes").write_bytes(b"hunter\xff")
    (tmp_path / "large").write_bytes(b"h" * (1 << 20))
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("empty", "empty"), ("bytes", "not UTF-8"), ("none", "No such file"), ("", "Is a directory"), ("pipe", "no regular file"), ("large", "larger than")):
        with pytest.raises(ConfigError, match=says):
            read_secret(f"file:{tmp_path}/{name}")


def test_the_reference_page_is_what_the_structs_say():
    root = Path(__file__).resolve().parents[2]
    page = subprocess.run([sys.executable, "docs/reference.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert (root / "docs/configuration.md").read_text() == page, "run `make docs`"
