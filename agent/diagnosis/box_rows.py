"""Judge clock, disk, stored engines and sensors. Pure."""

from agent.diagnosis.around import EngineStore
from agent.diagnosis.facts import Facts
from agent.diagnosis.jtop_row import jtop_row
from agent.diagnosis.rows import Row, size

_SLOW_RATE = 1e6  # bytes per second: an event stream of a few kB/s still fits, a built engine takes minutes
_SLOW_COMMIT_S = 0.5  # the spool commits every quarter of a second


def clock_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge the wall clock: certificates and the times in events depend on it."""
    if facts.around is None:
        return ()
    match facts.around.clock:
        case "synchronised":
            return (Row(name="clock", verdict="ok", found="synchronised"),)
        case "unknown":
            return (Row(name="clock", verdict="unknown", found="plausible; the kernel may not be asked whether it is "
                        "synchronised"),)
        case "implausible":
            return (Row(name="clock", verdict="fail", found="it shows a time before this version was made: it is not "
                        "set, and TLS certificates look as if they did not hold yet", remedy=_SYNCHRONISE),)
        case _:
            return (Row(name="clock", verdict="warn", found="plausible, and no time service has confirmed it lately",
                        remedy=_SYNCHRONISE),)


_SYNCHRONISE = "`timedatectl` says more; `sudo timedatectl set-ntp true`, and let the box reach a time server"


def disk_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge how fast the state directory is written."""
    if facts.around is None:
        return ()
    disk, name = facts.around.disk, "write speed"
    if disk.fault is not None or disk.rate is None or disk.commit_s is None:
        hangs = (disk.fault or "").startswith("it hangs")
        return (Row(name=name, verdict="fail" if hangs else "unknown", found=f"not measured: {disk.fault or 'unknown'}",
                    remedy="the disk may be failing: `dmesg`" if hangs else ""),)
    found = (f"{disk.rate / 1e6:.1f} MB/s written and synced ({size(disk.written)}), "
             f"a commit takes up to {disk.commit_s * 1e3:.0f} ms")
    if disk.rate < _SLOW_RATE or disk.commit_s > _SLOW_COMMIT_S:
        return (Row(name=name, verdict="warn", found=found, remedy="a worn or slow card: put [device] state_dir on a "
                    "better disk (NVMe), and look at `dmesg`"),)
    return (Row(name=name, verdict="ok", found=found),)


def store_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge the stored engines."""
    if facts.around is None:
        return ()
    store = facts.around.store
    if store.fault is not None:
        return (Row(name="stored engines", verdict="unknown", found=store.fault, remedy="run it with sudo"),)
    count, total = len(store.engines), sum(one.bytes for one in store.engines)
    told = f"{count} engine{'s' * (count != 1)}, {size(total)}" if count else "empty"
    rows = [Row(name="stored engines", verdict="ok", found=told)]
    if facts.wanted.recipe:
        rows.append(_serves(facts, store))
    if store.quarantined:
        recipe, why = store.quarantined[-1]
        others = f"; {len(store.quarantined) - 1} more" if len(store.quarantined) > 1 else ""
        rows.append(Row(name="quarantine", verdict="warn", found=f"{recipe}: {why}{others}",
                        remedy=f"`vedette engines show {recipe}`; `vedette engines build {recipe}` tries anew"))
    if store.damaged:
        file, why = store.damaged[0]
        others = f"; {len(store.damaged) - 1} more" if len(store.damaged) > 1 else ""
        rows.append(Row(name="damaged engines", verdict="warn", found=f"{file}: {why}{others}",
                        remedy="the agent sets them aside and builds anew; a damaged disk shows in `dmesg`"))
    return tuple(rows)


def _serves(facts: Facts, store: EngineStore) -> Row:
    name, recipe = "tuned engine", facts.wanted.recipe
    mine = [one for one in store.engines if one.recipe == recipe]
    good = next((one for one in mine if one.serves), None)
    if good is not None:
        return Row(name=name, verdict="ok", found=f"{recipe} {good.form}, identity {good.identity}: tuned on this "
                   "platform")
    misfit = next((one.misfit for one in mine if one.misfit), ())
    found = (f"{recipe}: none fits this platform: {'; '.join(misfit)}" if misfit else
             f"{recipe}: none yet")
    if facts.wanted.runtime == "onnxruntime" and not misfit:
        return Row(name=name, verdict="ok", found=f"{found}, the prepared model serves")
    return Row(name=name, verdict="warn", found=f"{found}; until one is built the agent serves with a quick one",
               remedy=f"`vedette engines build {recipe}`, or leave it to the running agent")


def sensor_rows(facts: Facts) -> tuple[Row, ...]:
    """Judge whether every limit has a sensor that tells something now, and jtop."""
    if facts.around is None:
        return ()
    if facts.around.sources is None:  # the configuration cannot be used
        return (jtop_row(facts),)
    limits, sensors = facts.around.limits, facts.around.sensors
    by = f"{sensors.name}{', told by the agent that runs' if sensors.by == 'agent' else ''}"
    trouble = sensors.fault or sensors.trouble
    values = {
        "watts": (limits.watts, sensors.watts is not None, f"{sensors.watts or 0:.1f} W of {sensors.measures}"),
        "celsius": (limits.celsius, sensors.celsius is not None, f"{sensors.celsius or 0:.1f} °C of {sensors.hottest}"),
        "memory": (limits.memory, sensors.memory, "measured"),
    }
    rows = [_limit(key, there=there, value=f"{value} ({by})" if key != "memory" else value, trouble=trouble)
            for key, (asked, there, value) in values.items() if asked]
    if not rows:
        told = [text for _, there, text in list(values.values())[:2] if there]
        rows.append(Row(name="[budget] limits", verdict="ok", found="none needs a sensor" + (
            f"; {', '.join(told)} ({by})" if told else "; there is none that tells anything here")))
    return (*rows, jtop_row(facts))


def _limit(key: str, *, there: bool, value: str, trouble: str) -> Row:
    name = f"[budget] {key}"
    if there:
        return Row(name=name, verdict="ok", found=value)
    return Row(name=name, verdict="fail", found=f"no sensor tells it now: {trouble or 'no reason given'}",
               remedy="`vedette sensors` shows every reader; until then the agent keeps its safest known pace")
