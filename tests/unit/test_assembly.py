"""A source whose password lies elsewhere: read at each opening, and its trouble is the source's own."""

import threading

import pytest

from agent import assembly
from agent.errors import SourceError
from agent.page.words import public
from agent.sections import SourceSection
from tests.helpers.scripted_source import until


def test_the_password_is_read_at_each_opening_and_a_missing_one_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.capture.reader._FIRST_RETRY_S", 0.01)
    secret, opened, changes = tmp_path / "door", [], []

    def refuse(options):
        opened.append(options.password)
        raise SourceError("the camera does not take it")

    monkeypatch.setattr(assembly, "open_source", refuse)
    section = SourceSection(url="rtsp://127.0.0.1:1/x", username="vt", password=f"file:{secret}", retry_max=0.02)
    reader, _ = assembly.source("door", section, threading.Condition(), changes.append)
    reader.start()
    try:
        until(lambda: changes)
        assert reader.status().reason == (f"source.door.password: secret {secret}: No such file or directory "
                                          "(create it, readable by the agent's user only)")
        assert not opened
        assert not reader.status().finished
        for word in ("first", "second"):
            secret.write_text(word)
            until(lambda word=word: opened[-1:] == [word])
    finally:
        reader.stop(1)
    assert [change.reason for change in changes if "first" in change.reason or "second" in change.reason] == []


def test_a_source_without_a_password_is_opened_without(monkeypatch):
    asked = []
    monkeypatch.setattr(assembly, "open_source", lambda options: asked.append(options.password) or (_ for _ in ()).throw(SourceError("no")))
    reader, _ = assembly.source("door", SourceSection(url="rtsp://127.0.0.1:1/x"), threading.Condition(), lambda _: None)
    reader.start()
    until(lambda: asked)
    reader.stop(1)
    assert asked[0] is None


@pytest.mark.parametrize(("reference", "mend"), [("file:{}/none", "create it"), ("credential:none", "/etc/vedette/credentials/none")])
def test_where_a_missing_secret_has_to_be_put_is_said(tmp_path, monkeypatch, reference, mend):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SourceError, match=r"source\.door\.password: secret .*/none: No such file") as caught:
        assembly._password("door", reference.format(tmp_path))
    assert mend in caught.value.remedy


def test_the_page_shows_nothing_of_where_a_missing_password_should_lie(tmp_path):
    with pytest.raises(SourceError) as caught:
        assembly._password("door", f"file:{tmp_path}/my hidden/door")
    assert public(caught.value.what) == "source.door.password: secret (path): No such file or directory"
