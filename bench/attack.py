"""``python -m bench.attack SECONDS SOCKET HOST PORT``: what strangers may do to the status socket and to the page.

A thousand connections held open at once and new ones as fast as they are taken: garbage, halves of requests, requests
whose answers nobody reads, bytes that drip. A process of its own, of lowest priority: strangers do not use the box's
processor. Prints how many connections were made.
"""

import contextlib
import os
import random
import resource
import socket
import struct
import sys
import time
from collections import deque

_HELD = 1000
_DRIPS = 20


def attack(seconds: float, path: str, page: tuple[str, int]) -> int:
    """Attack both doors for so many seconds; return how many connections were made."""
    chance, held, made = random.Random(6), deque[socket.socket](), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for client in [_knock(path), _knock(page)]:
            if client:
                made += 1
                _say(client, _words(chance))
                held.append(client)
        while len(held) > _HELD:
            held.popleft().close()
        for client in chance.choices(held, k=_DRIPS) if held else ():
            _say(client, b"x")
    for client in held:
        client.close()
    return made


def _knock(where: str | tuple[str, int]) -> socket.socket | None:
    """Open a connection without waiting for it; None when there is no room for one now."""
    client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # uses up no port when it is closed
    try:
        client.connect(where)
    except BlockingIOError:
        if isinstance(where, str):  # the kernel's queue is full
            client.close()
            time.sleep(1e-3)
            return None
    except OSError:
        client.close()
        return None
    return client


def _words(chance: random.Random) -> bytes:
    host = b"Host: 127.0.0.1\r\n"
    return chance.choice([
        chance.randbytes(chance.randrange(1, 6000)), b"", b"GET / HTT", b"\x16\x03\x01\x02\x00" * 50,
        b"GET /status HTTP/1.0\r\n\r\n", b"GET /metrics HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"\r\n", b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000,
        b"GET /now.json HTTP/1.1\r\n" + host + b"Authorization: Bearer wrong\r\n\r\n",
        b"GET /?token=" + b"a" * 30 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /picture/../../etc/passwd HTTP/1.1\r\n" + host + b"\r\n"])


def _say(client: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(words)


def main() -> None:
    """Attack as the arguments say."""
    os.nice(19)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    seconds, path, host, port = sys.argv[1:]
    print(attack(float(seconds), path, (host, int(port))))


if __name__ == "__main__":
    main()
