"""What systemd knows of the service: its state, how it ended last, how often it was started again.

Asked through ``systemctl show``, which answers any user. Where no systemd runs there is nothing to know.
"""

import subprocess
import time
from pathlib import Path

import msgspec

NAME = "vedette.service"
_BOOTED = Path("/run/systemd/system")  # there when systemd is the init, see sd_booted(3)
_NEVER = {"", "0", "infinity", "18446744073709551615"}
_ASKED = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "ExecMainCode", "ExecMainStatus",
          "MainPID", "NRestarts", "StatusText", "NeedDaemonReload", "StateChangeTimestampMonotonic", "MemoryCurrent",
          "FragmentPath", "DropInPaths")


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service as systemd sees it.

    Attributes:
        name: ``vedette.service``.
        load_state: ``loaded``, ``not-found`` …
        active_state: ``active``, ``activating``, ``deactivating``, ``inactive``, ``failed``.
        sub_state: ``running``, ``start``, ``auto-restart``, ``dead`` …
        unit_file_state: ``enabled``, ``disabled``, ``masked`` …; empty when it is not installed.
        result: How its last run ended: ``success``, ``exit-code``, ``signal``, ``watchdog``, ``oom-kill`` …
        exec_code: How its main process ended: 1 exited, 2 killed, 3 dumped (waitid(2)); 0 = it has not ended.
        exec_status: Its exit code or its signal.
        main_pid: Its process, 0 = none.
        restarts: How often systemd started it again by itself since it was started by hand.
        since_s: Seconds since the state changed; None = not since the boot.
        status_text: What it said of itself last.
        need_reload: Its files have changed since systemd read them.
        memory: Bytes its control group holds; None where not known.
        file: The unit's file; ``drop_ins`` what is laid over it.
    """

    name: str
    load_state: str
    active_state: str
    sub_state: str
    unit_file_state: str
    result: str
    exec_code: int
    exec_status: int
    main_pid: int
    restarts: int
    since_s: float | None
    status_text: str
    need_reload: bool
    memory: int | None
    file: str
    drop_ins: tuple[str, ...]

    @property
    def installed(self) -> bool:
        """There is such a unit."""
        return self.load_state != "not-found"

    @property
    def words(self) -> str:
        """The state in a few words: ``active (running)``, ``failed (watchdog)``."""
        if not self.installed:
            return "not installed"
        if self.active_state == "failed" or self.sub_state == "auto-restart" or (
                self.active_state == "deactivating" and self.result not in {"", "success"}):
            return f"{self.active_state} ({', '.join(dict.fromkeys((self.sub_state, self.how_it_ended)))})"
        return f"{self.active_state} ({self.sub_state})"

    @property
    def how_it_ended(self) -> str:
        """How the last run ended, in systemd's word and the number behind it."""
        match self.result:
            case "exit-code":
                return f"exit code {self.exec_status}"
            case "signal" | "core-dump":
                return f"{self.result} {self.exec_status}"
            case result:
                return result


def ask_unit(name: str = NAME, timeout_s: float = 2.0) -> Unit | None:
    """Return what systemd knows of ``name``; None where no systemd runs, or it does not answer in time."""
    if not _BOOTED.is_dir():
        return None
    try:
        done = subprocess.run(["systemctl", "show", name, f"--property={','.join(_ASKED)}"], capture_output=True,
                              text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parsed(name, done.stdout) if done.returncode == 0 else None


def parsed(name: str, shown: str) -> Unit | None:
    """Return what ``systemctl show`` printed; None when it is no such answer."""
    said = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if not {"LoadState", "ActiveState", "SubState"} <= said.keys():
        return None
    changed, memory = said.get("StateChangeTimestampMonotonic", ""), said.get("MemoryCurrent", "")
    return Unit(
        name=name, load_state=said["LoadState"], active_state=said["ActiveState"], sub_state=said["SubState"],
        unit_file_state=said.get("UnitFileState", ""), result=said.get("Result", ""),
        exec_code=_number(said.get("ExecMainCode", "")), exec_status=_number(said.get("ExecMainStatus", "")),
        main_pid=_number(said.get("MainPID", "")), restarts=_number(said.get("NRestarts", "")),
        since_s=None if changed in _NEVER else max(time.monotonic() - _number(changed) / 1e6, 0.0),
        status_text=said.get("StatusText", ""), need_reload=said.get("NeedDaemonReload") == "yes",
        memory=_number(memory) if memory not in _NEVER and memory.isdigit() else None,
        file=said.get("FragmentPath", ""), drop_ins=tuple(said.get("DropInPaths", "").split()))


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
