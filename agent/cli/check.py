"""``vedette status --check``: one line and an exit code for Nagios, Icinga and whatever else runs such plugins.

The first line says it all, with performance data behind the ``|``; the problems follow, a line each. A value that is
not known has no performance data. It takes at most about three seconds: two to ask, one for systemd.
"""

from collections.abc import Callable
from typing import NamedTuple

import click

from agent.asking import NoAnswer, Place, look, stranger_note, version_note
from agent.cli.absent import absent_lines
from agent.cli.words import span
from agent.errors import ConfigError
from agent.runs import NO_START, STOPPED
from agent.snapshot import Snapshot, SourceView

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_LONGEST_START_S = 1800.0  # the first build of an engine takes minutes
_ASK_S = 1.4  # the agent, and systemd as long again
_BY_STATE = {"running": OK, "degraded": WARNING, "starting": WARNING, "stopping": WARNING, "down": CRITICAL}
_BY_ABSENCE = {"starting": WARNING, "stopping": WARNING, "busy": UNKNOWN, "not_permitted": UNKNOWN,
               "other_version": UNKNOWN, "foreign": UNKNOWN}  # all others: nobody looks at the cameras


class Limits(NamedTuple):
    """Above these it warns, or is critical; None = no limit.

    Attributes:
        warn_spool: Events that wait for delivery.
        crit_spool: The same.
        warn_age: Seconds: the oldest of those events, and the last frame of each source.
        crit_age: The same.
    """

    warn_spool: int | None = None
    crit_spool: int | None = None
    warn_age: float | None = None
    crit_age: float | None = None


class Verdict(NamedTuple):
    """What the plugin prints and returns."""

    code: int
    summary: str
    perfdata: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole output."""
        first = f"VEDETTE {_WORDS[self.code]} - {_plain(self.summary)}"
        return "\n".join([f"{first} | {' '.join(self.perfdata)}" if self.perfdata else first,
                          *map(_plain, self.details)])


def check_options(command: Callable[..., object]) -> Callable[..., object]:
    """Add --check and its limits; the command gets them as ``limits``, None without --check."""

    def with_limits(*, check: bool, warn_spool: int | None, crit_spool: int | None, warn_age: float | None,
                    crit_age: float | None, **others: object) -> object:
        limits = Limits(warn_spool, crit_spool, warn_age, crit_age)
        if not check and limits != Limits():
            raise click.UsageError("--warn-spool, --crit-spool, --warn-age and --crit-age go with --check")
        return command(**others, limits=limits if check else None)

    with_limits.__name__, with_limits.__doc__ = command.__name__, command.__doc__
    with_limits.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    count, age = click.IntRange(min=0), click.FloatRange(min=0)
    wrapped: Callable[..., object] = with_limits
    for option in (
            click.option("--crit-age", type=age, metavar="S", help="CRITICAL when they are older."),
            click.option("--warn-age", type=age, metavar="S",
                         help="WARNING when the oldest event not yet delivered, or the last frame of a source, is "
                              "older; seconds."),
            click.option("--crit-spool", type=count, metavar="N", help="CRITICAL above as many."),
            click.option("--warn-spool", type=count, metavar="N", help="WARNING above as many events in the spool."),
            click.option("--check", is_flag=True, help="One line and an exit code, as a Nagios plugin.")):
        wrapped = option(wrapped)
    return wrapped


def check(find: Callable[[], tuple[Place, ConfigError | None]], limits: Limits) -> int:
    """Ask once and print the plugin's output; return its exit code.

    Args:
        find: Returns where to ask, and why the configuration cannot be used; may raise ConfigError.
        limits: What else is wrong besides what the agent itself calls a problem.
    """
    try:
        place, fault = find()
    except ConfigError as error:
        verdict = Verdict(UNKNOWN, error.what, details=(f"mend: {error.remedy}",))
    else:
        answer = look(place, _ASK_S)
        verdict = judge(answer, limits)
        if isinstance(answer, Snapshot):
            odd = [*version_note(answer), *stranger_note(answer, place, _ASK_S)]
            verdict = verdict._replace(details=(*verdict.details, *odd))
        # Whoever runs plugins need not be one who may read it.
        if fault and not isinstance(fault.__cause__, PermissionError):
            verdict = verdict._replace(
                code=max(verdict.code, WARNING), details=(*verdict.details, *str(fault).splitlines()),
                summary=f"{verdict.summary}; its configuration cannot be used, so it would not start again")
    click.echo(verdict.text)
    return verdict.code


def judge(answer: Snapshot | NoAnswer, limits: Limits) -> Verdict:
    """Return the verdict on one answer."""
    return _absent(answer) if isinstance(answer, NoAnswer) else _present(answer, limits)


def _absent(answer: NoAnswer) -> Verdict:
    code = _BY_ABSENCE.get(answer.state, CRITICAL)
    # Nobody there, and nothing that says that there ever should be anybody.
    ran = answer.last_end is not None or bool(answer.last_words)
    if answer.state == "down" and not ran and (answer.unit is None or not answer.unit.installed):
        code = UNKNOWN
    return Verdict(code, f"{answer.state.replace('_', ' ')}: {answer.why}", details=tuple(absent_lines(answer)[1:]))


def _present(s: Snapshot, limits: Limits) -> Verdict:
    code, told = CRITICAL if _never_ready(s) else _BY_STATE.get(s.state, WARNING), list(s.problems)
    oldest = s.spool.oldest_age_s if s.spool and s.spool.depth else 0.0
    frames = [(source, _frame_age(source, s)) for source in s.sources if source.state != "ended"]
    stalest = max((age for source, age in frames if source.last_frame_age_s is not None), default=None)
    depth = s.spool.depth if s.spool else None
    for level, most, age in ((WARNING, limits.warn_spool, limits.warn_age),
                             (CRITICAL, limits.crit_spool, limits.crit_age)):
        over = [f"{depth} events wait in the spool, more than {most}"
                ] if most is not None and depth is not None and depth > most else []
        if age is not None:
            over += [f"the oldest event not yet delivered is {span(oldest)} old, more than {span(age)}"
                     ] if oldest is not None and oldest > age else []
            over += [f"{_last_frame(source, since)}, more than {span(age)}" for source, since in frames if since > age]
        if over:
            code, told = max(code, level), [*told, *(f"{_WORDS[level]}: {words}" for words in over)]
    live = sum(source.state == "live" for source in s.sources)
    rate = sum(source.processed_rate for source in s.sources)
    since = s.uptime_s if s.state_since_s is None else s.state_since_s
    doing = f" ({s.doing})" if s.doing not in {"", s.state} else ""
    first = f"; {told[0]}" if told else ""
    latency = s.stages.get("latency")
    perfdata = (
        f"fps={rate:.1f};;;0",
        *_perf("spool", depth, "", limits.warn_spool, limits.crit_spool),
        *_perf("spool_age", None if depth is None else oldest, "s", limits.warn_age, limits.crit_age),
        *_perf("frame_age", stalest, "s", limits.warn_age, limits.crit_age),
        *_perf("p99_ms", latency.p99_ms if latency else None, "", None, None),
        f"live={live};;;0;{len(s.sources)}")
    lasts = span(since) if since >= 1 else "just now"
    summary = f"{s.state} {lasts}{doing}, {live} of {len(s.sources)} sources live, {rate:.1f} fps{first}"
    return Verdict(code, summary, perfdata, tuple(told))


def _never_ready(s: Snapshot) -> bool:
    """Tell whether it starts for ever, or only starts and ends: nobody looks at the cameras, whatever it says just now.

    A start that failed was no run: this one has got further.
    """
    ran = [end.how for end in s.ends if end.how != NO_START]
    in_a_loop = len(ran) > 1 and not {STOPPED, "power"} & set(ran[-2:])
    return s.state == "starting" and (in_a_loop or s.uptime_s > _LONGEST_START_S)


def _frame_age(source: SourceView, s: Snapshot) -> float:
    """Return the age of a source's last frame; where none ever came, that of the agent."""
    return s.uptime_s if source.last_frame_age_s is None else source.last_frame_age_s


def _last_frame(source: SourceView, age_s: float) -> str:
    if source.last_frame_age_s is None:
        return f"{source.name} has given no frame yet, for {span(age_s)}"
    return f"the last frame of {source.name} is {span(age_s)} old"


def _perf(label: str, value: float | None, unit: str, warn: float | None, crit: float | None) -> list[str]:
    if value is None:
        return []
    limits = ";".join("" if limit is None else f"{limit:.12g}" for limit in (warn, crit))
    return [f"{label}={round(value, 3):.12g}{unit};{limits};0"]


def _plain(words: str) -> str:
    """Return one line without the character that begins performance data."""
    return " ".join(words.replace("|", "/").split())
