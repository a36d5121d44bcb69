import string
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.redact import redact

PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " äß€"
secrets = st.text(PRINTABLE, min_size=4, max_size=40)
TEXT = "cannot open {}; the next try is in 2 s"


@given(user=secrets, password=secrets, encode=st.booleans(), scheme=st.sampled_from(["rtsp", "rtsps", "https"]))
def test_login_never_appears(user, password, encode, scheme):
    login = f"{quote(user, safe='')}:{quote(password, safe='')}" if encode else f"{user}:{password}"
    clean = TEXT.format(f"{scheme}://@cam-1:554/live")
    assume(user not in clean and password not in clean and not set("*") >= set(user) and not set("*") >= set(password))
    text = redact(TEXT.format(f"{scheme}://{login}@cam-1:554/live"))
    for secret in (user, password, quote(user, safe=""), quote(password, safe="")):
        assert secret not in text
    assert text == TEXT.format(f"{scheme}://***@cam-1:554/live")


@given(secret=secrets, key=st.sampled_from(["token", "password", "key", "auth", "apiKey", "access_token", "PWD"]),
       encode=st.booleans(), behind=st.sampled_from("?&"))
def test_secret_in_a_query_never_appears(secret, key, encode, behind):
    shown = quote(secret, safe="") if encode else secret.replace(" ", "_")
    assume(not set("*") >= set(shown) and "@" not in shown)
    before = f"cannot open rtsp://cam/live{'?channel=1' if behind == '&' else ''}{behind}{key}="
    assume(shown not in before + "***; next try")
    assert redact(f"{before}{shown} next try") == f"{before}*** next try"


@given(text=st.text(PRINTABLE + ":/@?=&\n", max_size=80))
def test_redacting_twice_changes_nothing_more(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", [
    "rtsp://cam-1:554/live?channel=1&subtype=0: no frame within 5 s",
    "mail ops@example.org about it",
    "file:///srv/clip.mp4 breaks at frame 57 of 120",
])
def test_text_without_a_secret_stays_as_it_is(text):
    assert redact(text) == text


def test_a_login_in_the_path_is_hidden():
    assert redact("rtsp://cam/user=admin_password=geheim_channel=1.sdp") == "rtsp://cam/user=admin_password=***"


def test_each_line_keeps_its_own_address():
    assert redact("a rtsp://u:p@one/x\nb rtsp://v:q@two/y") == "a rtsp://***@one/x\nb rtsp://***@two/y"
