"""``vedette spool``: look into the spool file, prove it, save it, treat its dead letters; agent running or not."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from agent.atomic import replacing
from agent.cli.options import json_option, load_or_default, optional_config_option
from agent.errors import EXIT_DEGRADED, EXIT_OK, AgentError

if TYPE_CHECKING:
    from agent.report.contents import Walk

_CHUNK_EVENTS = 256
_MOST_PEEKED = 1000
# So many bodies are checked before anyone wonders whether it hangs.
_WORTH_A_BAR = 20_000


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for option in (
            json_option,
            click.option("--file", "file", type=click.Path(path_type=Path), default=None,
                         help="Another spool file, for example one that was set aside."),
            optional_config_option):
        command = option(command)
    return command


def _choosing(command: Callable[..., int]) -> Callable[..., int]:
    for option in (
            click.option("--all", "all_", is_flag=True, help="All dead letters."),
            click.option("--id", "ids", multiple=True, help="Id of one event; may be given again.")):
        command = option(command)
    return command


@click.group()
def spool() -> None:
    """Events that wait for the upstream: look, prove, save, treat dead letters."""


@spool.command()
@_options
def status(*, config_path: Path | None, file: Path | None, as_json: bool) -> int:
    """Show what is in the spool's file; `vedette status` shows how the delivery goes."""
    from agent.report.figures import figures
    from agent.report.inspection import Inspection

    with Inspection(_path(config_path, file)) as opened:
        found = figures(opened)
    if as_json:
        _print_json(found)
        return EXIT_OK
    from agent.cli.screen import say
    from agent.cli.spool_tables import figures_screen

    say(figures_screen(found), width=110)
    return EXIT_OK


@spool.command()
@click.option("-n", "most", type=click.IntRange(1, _MOST_PEEKED), default=10, show_default=True, help="Events at most.")
@click.option("--dead", is_flag=True, help="Dead letters: what the upstream refused for good, and why.")
@click.option("--newest", is_flag=True, help="The newest first, not the next to go.")
@_options
def peek(*, most: int, dead: bool, newest: bool, config_path: Path | None, file: Path | None, as_json: bool) -> int:
    """Show the next events to go out. With --json each whole event on a line."""
    from agent.report.contents import dead_letters, upcoming
    from agent.report.inspection import Inspection

    with Inspection(_path(config_path, file)) as opened:
        found = (dead_letters if dead else upcoming)(opened, most, newest=newest)
    if as_json:
        for one in found:
            click.echo(one.body)
        return EXIT_OK
    from agent.cli.screen import say
    from agent.cli.spool_tables import events_screen

    say(events_screen(found, dead=dead), width=110)
    return EXIT_OK


@spool.command()
@_options
def verify(*, config_path: Path | None, file: Path | None, as_json: bool) -> int:
    """Prove that every event that was taken is delivered, here, or declared lost. Exit code 0: proven, 1: not."""
    from agent.report.inspection import Inspection
    from agent.report.proof import verify as prove

    with Inspection(_path(config_path, file)) as opened, _progress() as progress:
        proof = prove(opened, progress)
    if as_json:
        _print_json(proof)
    else:
        from agent.cli.screen import say
        from agent.cli.spool_tables import proof_screen

        say(proof_screen(proof), width=110)
    return EXIT_OK if proof.proven else EXIT_DEGRADED


@spool.command()
@click.option("--dead", is_flag=True, help="The dead letters instead of the events that wait.")
@click.option("--all", "all_", is_flag=True, help="Both.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="To this file.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@_options
def export(*, dead: bool, all_: bool, output: Path | None, force: bool, config_path: Path | None, file: Path | None,
           as_json: bool) -> int:
    """Write the events, oldest first, one JSON object a line; of a damaged file those that can be read.

    Exit code 1: some could not be read. With --json it says on a line of JSON how many it wrote.
    """
    from agent.report.contents import Walk
    from agent.report.inspection import Inspection

    if dead and all_:
        raise click.UsageError("--dead and --all exclude each other")
    path = _path(config_path, file)
    # Opened first, as whoever runs this; the spool is read as its owner, who might not write there.
    with _sink(output, path, force=force) as write, Inspection(path) as opened:
        walk = Walk(opened, waiting=not dead, batches=not dead, dead=dead or all_)
        written = _write_out(walk, write)
    if as_json:
        click.echo(msgspec.json.encode({"written": written, "unreadable": walk.unreadable}), err=output is None)
    else:
        if output is not None:
            click.echo(f"{output}: {_count(written, 'event')}")
        if walk.unreadable:
            click.echo(f"{path}: {_count(walk.unreadable, 'event')} could not be read", err=True)
    return EXIT_DEGRADED if walk.unreadable else EXIT_OK


@spool.command("retry-dead")
@_choosing
@_options
def retry_dead(*, ids: tuple[str, ...], all_: bool, config_path: Path | None, file: Path | None, as_json: bool) -> int:
    """Send dead letters again: puts them back among the events that wait, under their old sequence."""
    from agent.report.inspection import Inspection

    chosen = _chosen(ids, all_=all_)
    with Inspection(_path(config_path, file), writing=True) as opened:
        done = opened.retry_dead(chosen)
    return _tell(done, chosen, as_json, "put_back", "put back among the events that wait")


@spool.command("drop-dead")
@_choosing
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_options
def drop_dead(*, ids: tuple[str, ...], all_: bool, yes: bool, config_path: Path | None, file: Path | None,
              as_json: bool) -> int:
    """Delete dead letters for good. Their gap events have told the receiver of them already."""
    from agent.report.contents import Walk
    from agent.report.inspection import Inspection

    chosen, path = _chosen(ids, all_=all_), _path(config_path, file)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: give --yes")
        with Inspection(path) as opened:
            count = sum(chosen is None or one.id in chosen
                        for one in Walk(opened, waiting=False, batches=False, dead=True))
        if count and not click.confirm(f"delete {_count(count, 'dead letter')} for good?", err=True):
            click.echo("nothing deleted", err=True)
            return EXIT_DEGRADED
    with Inspection(path, writing=True) as opened:
        done = opened.drop_dead(chosen)
    return _tell(done, chosen, as_json, "dropped", "deleted")


def _path(config_path: Path | None, file: Path | None) -> Path:
    return file or load_or_default(config_path).state_dir / "spool.sqlite"


def _chosen(ids: tuple[str, ...], *, all_: bool) -> tuple[str, ...] | None:
    if bool(ids) == all_:
        raise click.UsageError("give either --id ID, once or more, or --all; `vedette spool peek --dead` shows them")
    return None if all_ else ids


def _tell(done: Sequence[str], chosen: tuple[str, ...] | None, as_json: bool, key: str, words: str) -> int:
    """Say which dead letters were treated, and which were not there."""
    strange = [name for name in chosen or () if name not in done]
    if as_json:
        _print_json({key: done, "not_found": strange})
    else:
        click.echo(f"{_count(len(done), 'dead letter')} {words}")
        for name in strange:
            click.echo(f"{name}: no dead letter has this id", err=True)
    return EXIT_DEGRADED if strange else EXIT_OK


def _write_out(walk: "Walk", write: Callable[[bytes], None]) -> int:
    from agent.report.contents import head_of

    written = 0
    lines: list[bytes] = []

    for one in walk:
        if head_of(one.body) is None or b"\n" in one.body:
            walk.unreadable += 1
            continue
        lines += (one.body, b"\n")
        written += 1
        if len(lines) >= 2 * _CHUNK_EVENTS:
            write(b"".join(lines))
            lines.clear()
    if lines:
        write(b"".join(lines))
    return written


@contextmanager
def _sink(output: Path | None, spool_path: Path, *, force: bool) -> Iterator[Callable[[bytes], None]]:
    """Open what events are written to: a file that appears whole or not at all, or standard output."""
    if output is None:
        yield lambda lines: click.echo(lines, nl=False)
        return
    if output.resolve() == spool_path.resolve():
        raise click.UsageError("that is the spool itself")
    if output.exists() and not force:
        raise AgentError(f"{output}: exists already", "give another name, or --force")
    try:
        with replacing(output, 0o640) as file:
            yield _writer(file)
    except OSError as error:
        raise AgentError(f"{output}: {error.strerror or error}", "write it where there is room, and you may") from error


def _writer(file: BinaryIO) -> Callable[[bytes], None]:
    def write(lines: bytes) -> None:
        file.write(lines)

    return write


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error while a terminal looks on and there is much to do."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("bodies", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total >= _WORTH_A_BAR)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value))
