"""Where to ask, and what to say when no agent answers: why, what systemd knows, how the last run ended, what to do."""

from pathlib import Path

from agent.asking import NoAnswer, Place
from agent.cli.words import ago, lasting
from agent.config import DEFAULT_PATH, Config
from agent.runs import NO_START
from agent.unit import Unit


def usual(config_path: Path | None) -> bool:
    """Tell whether a configuration is the service's own: named, or none was named."""
    return config_path in {DEFAULT_PATH, None}


def place_of(config: Config, config_path: Path | None) -> Place:
    """Return where the agent of ``config``, which stands in ``config_path`` (None: the usual one), is asked."""
    service = usual(config_path) or config.socket_path == Config().socket_path
    return Place(config.socket_path, service=service, state_dir=config.state_dir)


def absent_lines(answer: NoAnswer) -> list[str]:
    """Return the lines for people."""
    lines = [f"vedette: {answer.state.replace('_', ' ')}: {answer.why}"]
    if answer.agent_state:
        lines.append(f"  it says of itself: {answer.agent_state}")
    lines += [f"  its problem: {problem}" for problem in answer.problems]
    if answer.unit:
        lines.append(f"  {unit_words(answer.unit)}")
    if (end := answer.last_end) is not None:
        what = "start failed" if end.how == NO_START else "run ended"
        lines.append(f"  the last {what} {ago(end.at)}: {end.words or end.how}")
    if answer.mend:
        lines.append(f"  mend: {answer.mend}")
    return [*lines, *answer.last_words]


def unit_words(unit: Unit) -> str:
    """Return what systemd says, in one line."""
    if not unit.installed:
        return f"systemd: {unit.name} is not installed"
    lasts = "" if unit.since_s is None else f" {lasting(unit.since_s)}"
    parts = [f"systemd: {unit.name} is {unit.words}{lasts}",
             f"{unit.restarts} restart{'s' * (unit.restarts != 1)}" if unit.restarts else "",
             "starts again by itself" if unit.sub_state.startswith("auto-restart") else "",
             f"it said: {unit.status_text}" if unit.status_text else "",
             "its files have changed: `sudo systemctl daemon-reload`" if unit.need_reload else ""]
    return ", ".join(filter(None, parts))
