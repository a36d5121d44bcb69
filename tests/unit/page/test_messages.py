import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.page.messages import MOST_HEAD, Answer, BadRequestError, read


def test_a_request_is_read():
    request = read(b"GET /picture/a%2Fb?after=7&after=8 HTTP/1.1\r\nHost: box:1\r\nX-A:  b ")
    assert (request.path, request.query, request.headers) == ("/picture/a/b", {"after": "8"}, {"host": "box:1", "x-a": "b"})


@pytest.mark.parametrize(("head", "code"), [
    (b"", 400), (b"GET /", 400), (b"GET / HTTP/2", 400), (b"GET / x HTTP/1.1", 400), (b"POST / HTTP/1.1", 405), (b"\xff\xfe\x00\x16\x03\x01", 400),
    (b"GET / HTTP/1.1\r\nnonsense", 400), (b"GET / HTTP/1.1\r\nHost : x", 400), (b"GET //[x HTTP/1.1", 400),
    (b"GET /?" + b"&".join(b"a=1" for _ in range(50)) + b" HTTP/1.1", 400), (b"GET / HTTP/1.1\r\nA: " + b"a" * MOST_HEAD, 431)])
def test_what_is_no_request_is_refused(head, code):
    with pytest.raises(BadRequestError) as refused:
        read(head)
    assert refused.value.code == code


@given(st.binary(max_size=300))
def test_garbage_is_a_bad_request_or_a_request(head):
    for each in (head, b"GET " + head + b" HTTP/1.1\r\n" + head):
        with contextlib.suppress(BadRequestError):
            assert read(each).path is not None


def test_every_answer_tells_the_browser_to_trust_nobody_else():
    head, _, body = Answer(body=b"x", headers={"A": "b"}).encode().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"HTTP/1.1 200 OK", b"x")
    assert {b"Cache-Control: no-store", b"X-Content-Type-Options: nosniff", b"Connection: close", b"A: b", b"Content-Length: 1"} < set(lines)
    policy = next(line for line in lines if line.startswith(b"Content-Security-Policy:"))
    assert b"default-src 'none'" in policy
    assert b"unsafe" not in policy
    assert b"http" not in policy
