"""What the receiver does with the folder and the address it is given."""

import json

import pytest

from agent.cli import main
from agent.cli.receiver import Receiver, _set_damage_aside

LINES = [json.dumps({"specversion": "1.0", "id": name}).encode() for name in ("a", "b", "c")]


@pytest.mark.parametrize(("text", "whole", "damaged"), [
    (b"\n".join(LINES), LINES, []),  # only the last newline is missing
    (b"\n".join(LINES) + b"\n", LINES, []),
    (b"\n".join(LINES[:2]) + b"\n" + LINES[2][:-4], LINES[:2], [LINES[2][:-4]]),
    (LINES[0] + b"\n\x00\xff\n" + LINES[1] + b"\n{}\n", LINES[:2], [b"\x00\xff", b"{}"]),
    (b"", [], []),
])
def test_damage_is_set_aside_and_nothing_whole_is_lost(tmp_path, caplog, text, whole, damaged):
    file = tmp_path / "events.ndjson"
    file.write_bytes(text)
    _set_damage_aside(file)
    assert file.read_bytes() == b"".join(line + b"\n" for line in whole)
    aside = tmp_path / "events.ndjson.bad"
    assert (aside.read_bytes().splitlines() if aside.exists() else []) == damaged
    assert len(caplog.records) == bool(damaged)


def test_it_starts_on_a_damaged_file_and_goes_on(tmp_path):
    pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")
    (tmp_path / "events.ndjson").write_bytes(LINES[0] + b"\n" + LINES[1][:-3])
    with Receiver(tmp_path) as running:
        assert running.received == 1
        assert running.store(b"[" + LINES[1].replace(b", ", b",\n ") + b"]", "key") == 204
        assert [event["id"] for event in running.events()] == ["a", "b"]


def test_paths_are_absolute(tmp_path, monkeypatch):
    pytest.importorskip("trustme", reason="needs trustme: pip install -e '.[fleet]'")
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    with Receiver(Path("up")) as running:
        assert running.certificates.ca_file == tmp_path / "up/ca.pem"
        assert running.file == tmp_path / "up/events.ndjson"


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "127.0.0.1:65536", "127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:²"])
def test_an_address_that_is_none_is_refused(tmp_path, capsys, listen):
    assert main(["receiver", "--listen", listen, "--folder", str(tmp_path)]) == 64
    assert "HOST:PORT" in capsys.readouterr().err
