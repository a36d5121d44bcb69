"""``vedette page``: where the local page is, and how to get there from another computer."""

import json
import socket
from pathlib import Path

import click

from agent.asking import NoAnswer, look
from agent.cli.absent import absent_lines, place_of
from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.config import Config
from agent.errors import EXIT_OK, AgentError, ConfigError
from agent.page.address import Address, parse
from agent.page.token import made_token, token_path
from agent.secrets import read_secret
from agent.snapshot import Snapshot


@click.command()
@optional_config_option
@json_option
def page(config_path: Path | None, as_json: bool) -> int:
    """Print the address of the local page with its token, for members of the agent's group."""
    config = load_or_default(config_path)
    if config.status.listen is None:
        raise ConfigError("there is no page: status.listen is not set",
                          'write [status] listen = "127.0.0.1:8642", then restart the agent')
    address = parse(config.status.listen)
    answer = look(place_of(config, config_path))
    if isinstance(answer, NoAnswer):
        for line in absent_lines(answer):
            click.echo(line, err=True)
        return answer.exit_code()
    _check_served(answer)
    token, hint = _token(config)
    url = f"http://{_own(address)}/" + (f"?token={token}" if token else "")
    tunnel = f"ssh -L {address.port}:{_near(address)} {socket.gethostname()}"
    far = f"http://localhost:{address.port}/" + (f"?token={token}" if token else "")
    if as_json:
        click.echo(json.dumps({"url": url, "token": token, "listen": str(address), "loopback": address.loopback,
                               "tunnel": tunnel, "url_through_tunnel": far}))
        return EXIT_OK
    click.echo(url)
    if hint:
        click.echo(hint, err=True)
    if address.loopback:
        click.echo(f"From your own computer or phone: {tunnel}\n  then open there: {far}")
    else:
        click.echo("Plain HTTP: whoever listens on the network sees pictures and token. Safe from anywhere:\n"
                   f"  {tunnel}\n  then open there: {far}")
    return EXIT_OK


def _check_served(snapshot: Snapshot) -> None:
    """Check that the agent itself serves the page, so that nobody gives the token to whoever else listens there.

    Raises:
        AgentError: it serves none.
    """
    if not snapshot.page:
        why = next((problem for problem in snapshot.problems if problem.startswith("there is no page")), "")
        raise AgentError(why or "the agent serves no page", "is the port taken, `ss -ltnp`? Was the agent started after"
                         " status.listen was set? `vedette status` says what is wrong")


def _token(config: Config) -> tuple[str | None, str]:
    """Return the token, or None and where it is.

    Raises:
        AgentError: it is a file that may not be read, or is not there.
    """
    if config.status.token and config.status.token.startswith("credential:"):
        name = config.status.token.partition(":")[2]
        return None, f"Its token is the credential {name}, which only root reads: /etc/vedette/credentials/{name}"
    path = token_path(config)
    try:
        return read_secret(config.status.token) if config.status.token else made_token(path), ""
    except AgentError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and not config.status.token:
            raise AgentError(f"{path}: no such file, so no agent serves the page",
                             "is it running, since `listen` was set? `vedette status` says what is wrong") from error
        if isinstance(cause, PermissionError):
            raise AgentError(f"{error.what}", "use sudo, or join the group vedette") from error
        raise


def _own(address: Address) -> str:
    """Return the address as one may type it: not that which stands for all."""
    return str(Address(socket.gethostname(), address.port)) if address.everywhere else str(address)


def _near(address: Address) -> str:
    return f"127.0.0.1:{address.port}" if address.everywhere else str(address)
