import socket

import pytest

from agent.errors import AgentError, ConfigError
from agent.page.address import Address, bind, known_as, parse


@pytest.mark.parametrize(("listen", "host", "port", "loopback", "everywhere"), [
    ("127.0.0.1:8642", "127.0.0.1", 8642, True, False), ("[::1]:80", "::1", 80, True, False), ("localhost:1", "localhost", 1, True, False),
    ("0.0.0.0:8642", "0.0.0.0", 8642, False, True), ("[::]:8642", "::", 8642, False, True), ("192.0.2.7:1", "192.0.2.7", 1, False, False),
    ("box.example:1", "box.example", 1, False, False)])
def test_addresses(listen, host, port, loopback, everywhere):
    address = parse(listen)
    assert (address.host, address.port, address.loopback, address.everywhere, str(address)) == (host, port, loopback, everywhere, listen)


@pytest.mark.parametrize("listen", ["", "8642", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", ":8642", "[::1:80", "a:b"])
def test_what_is_no_address_is_said(listen):
    with pytest.raises(ConfigError, match=r"status\.listen"):
        parse(listen)


def test_a_taken_port_and_a_foreign_address_are_said():
    with bind(Address("127.0.0.1", free_port())) as taken, pytest.raises(AgentError, match="in use"):
        bind(Address("127.0.0.1", taken.getsockname()[1]))
    with pytest.raises(AgentError, match=r"192\.0\.2\.7") as foreign:
        bind(Address("192.0.2.7", 8642))
    assert not isinstance(foreign.value, ConfigError), "it may be given later"


@pytest.mark.parametrize("listen", ["a..b:8642", f"{'a' * 64}.example:8642", "..:8642"])
def test_a_host_that_can_be_no_name_is_a_fault_of_the_configuration(listen):
    with pytest.raises(ConfigError, match=r"status\.listen"):
        bind(parse(listen))


@pytest.mark.parametrize(("host", "known"), [
    ("127.0.0.1:8642", True), ("localhost:9999", True), ("LOCALHOST", True), ("[::1]:8642", True), ("192.0.2.7", True), ("listened.example:1", True),
    (socket.gethostname(), True), ("evil.example", False), ("127.0.0.1.evil.example:8642", False), ("", False), ("[x", False), ("a@evil.example", False)])
def test_a_name_that_anyone_could_point_at_us_is_not_ours(host, known):
    assert known_as(host, Address("listened.example", 1)) is known


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
