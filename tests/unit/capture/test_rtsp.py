import socket
import threading

import pytest

from agent.capture.rtsp import diagnose
from tests.helpers.rtsp import free_port


def camera(answer, asked):
    """Serve one connection on loopback: read the request, send ``answer`` (None = say nothing, but stay)."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve():
        with listener, listener.accept()[0] as connection:
            asked.append(connection.recv(4096))
            if answer is not None:
                connection.sendall(answer)
            else:
                done.wait(10)

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], done


@pytest.mark.parametrize(("answer", "login", "says"), [
    (b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n\r\n", True, "refused the user name or password"),
    (b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n\r\n", False, "wants a user name and a password"),
    (b"RTSP/1.0 404 Not Found\r\n\r\n", False, "no such stream"),
    (b"RTSP/1.0 200 OK\r\n\r\n", False, "its video cannot be opened"),
    (b"RTSP/1.0 503 Service Unavailable\r\n\r\n", False, "'503 Service Unavailable'"),
    (b"", False, "no RTSP answer"), (b"\xff\xfe\x00", False, "no RTSP answer"),
    (None, False, "no answer"),
])
def test_answer_in_words(answer, login, says):
    asked = []
    port, done = camera(answer, asked)
    url = f"rtsp://127.0.0.1:{port}/live?token=hunter2"
    what, remedy = diagnose(url, 0.3 if answer is None else 5, login=login)
    done.set()
    assert says in what
    assert remedy
    assert "hunter2" not in what
    assert asked[0].startswith(f"DESCRIBE {url} RTSP/1.0\r\n".encode())
    assert b"Authorization" not in asked[0]


def test_no_connection_and_no_time_left():
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    assert "Connection refused" in diagnose(url, 5, login=False)[0]
    assert "did not open in time" in diagnose(url, 0, login=False)[0]
