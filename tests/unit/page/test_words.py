import msgspec
import pytest

from agent.page.telling import tell
from agent.page.words import public
from tests.unit.cli.test_screen import camera, snapshot
from tests.unit.cli.test_screen_budget import governor

PLACES = (
    "rtsp://user:S3cret@10.77.0.9:8554/hidden/stream", "rtsp://user:a S3cret@10.77.0.9/hidden", "https://up.example.org:9443/hidden/in?k=v",
    "RTSP://10.77.0.9/hidden", "up.example.org:9443", "10.77.0.9", "[2001:db8::77]:9443", "2001:db8::77", "camhost:8554", "/srv/hidden/clip.mp4",
    "'/srv/my hidden/clip.mp4'", "\"/srv/o'neil hidden/clip.mp4\"", "~/hidden", "../hidden/x", "file:/etc/hidden/key", "/srv/some hidden/clip.mp4", "images:///srv/some hidden/clip.mp4")
LEAKS = ("hidden", "10.77", "up.example", "9443", "8554", "2001:db8", "camhost", "S3cret", "/srv", "/etc", "rtsp", "RTSP", "https", "://")
# What names a thing or a state in a fixed word of its own; all else is words.
FIXED = {"name", "state", "device", "version", "tier", "precision", "provider", "unit"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["{}", "{}: no answer", "clip {} ended.", "(see {})", "a={}, b", 'a "{}" b', "line\n{}\nline", "{} {}"])
def test_no_place_is_left_in_any_position(place, form):
    said = public(form.replace("{}", place), ["/srv/some hidden/clip.mp4"])
    assert [leak for leak in LEAKS if leak in said] == []
    assert "(address)" in said or "(path)" in said


@pytest.mark.parametrize("words", [
    "pictures arrive", "the picture has been black for 10 s", "3 frames/s of 12.5", "8.90 W of 9 W; 401/403", "quiet hours 22:00-06:00", "at 12:30:45",
    "on 2026-11-22T12:30:00Z", "upstream.url: check it", "max_age = 7 d", "n/a and/or", "640x640 int8, batch 2", "source door is down for 5 s: cuda:0 :: x",
    "upstream is retrying: connection refused", "sizes [640] [12:30]"])
def test_other_words_stay_as_they_are(words):
    assert public(words) == words


def test_what_is_around_an_address_stays():
    assert public("source door is down for 5 s: rtsp://10.0.0.9/x: no answer") == "source door is down for 5 s: (address): no answer"
    assert public("clip /srv/a b.mp4 ended, see /srv/a", ["/srv/a b.mp4"]) == "clip (path) ended, see (path)"


@pytest.mark.parametrize(("place", "said", "shown"), [
    ("/dev/video99", "source cam is down: v4l2:///dev/video99: gone", "source cam is down: (address): gone"),
    ("/dev/video99", "v4l2:///dev/video99: /dev/video99 is not there", "(address): (path) is not there"),
    ("/dev/video99", "(see v4l2:///dev/video99?format=mjpeg)", "(see (address))"),
    ("/data/a b/x.mp4", "file:///data/a b/x.mp4: No such file", "(address): No such file"),
    ("/data/a b/x.mp4", "file:///data/a b/x.mp4?loop=1 is empty", "(address) is empty")])
def test_a_known_path_within_an_address_is_a_part_of_it(place, said, shown):
    assert public(said, [place]) == shown


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_a_snapshot_brings_a_place_onto_the_page(place):
    poison = f"{place}: no answer"
    url = "file:///srv/some%20hidden/clip.mp4?loop=1"
    view = snapshot([camera("door", url=url)], governor=governor(), problems=[""])
    now = tell(_poisoned(view, poison, keep=url), [])
    for text in (now.doing, *now.problems, now.sources[0].reason, now.engine.tuning, now.order.why, now.order.quiet, now.upstream_reason):
        assert "no answer" in text
        assert "(address)" in text or "(path)" in text
    said = msgspec.json.encode(now).decode()
    assert [leak for leak in LEAKS if leak in said] == []


def _poisoned(value, poison, keep):
    """Return it with the poison in every text but the fixed ones."""
    if isinstance(value, str):
        return value if value == keep else f"{value} {poison}"
    if isinstance(value, list):
        return [_poisoned(each, poison, keep) for each in value]
    if isinstance(value, dict):
        return {key: _poisoned(each, poison, keep) for key, each in value.items()}
    if isinstance(value, msgspec.Struct):
        return type(value)(**{name: each if name in FIXED and isinstance(each, str) else _poisoned(each, poison, keep)
                              for name in value.__struct_fields__ for each in [getattr(value, name)]})
    return value
