"""What is kept about engines: the card beside each file, and the report of the ladder as it was tried."""

from typing import Literal

import msgspec

from agent.building.forms import Form
from agent.building.gate import Measured
from agent.building.identity import Parts

Outcome = Literal["kept", "beaten", "lost", "failed", "not tried", "not measured"]


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the ladder and what became of it.

    Attributes:
        outcome: ``kept`` it serves; ``beaten`` the gate let it pass, another was better; ``lost`` the gate refused it;
            ``failed`` it could not be made, built or run; ``not tried`` there was no need or no way to; ``not
            measured`` it was built, but this machine cannot run it.
        words: Why, with the figures.
        seconds: Spent on it.
        bytes: Size of the engine file; None = there is none.
    """

    form: Form
    outcome: Outcome
    words: str
    seconds: float = 0.0
    bytes: int | None = None
    measured: Measured | None = None


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one tuning: what was tried on what, and what was kept."""

    schema: int = 1
    parts: Parts
    rungs: list[Rung]
    kept: Form | None
    at: float
    took_s: float
    calibration_frames: int = 0
    held_out_frames: int = 0
    frames_sha256: str = ""
    note: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine file is."""

    schema: int = 1
    parts: Parts
    form: Form
    sha256: str
    bytes: int
    max_batch: int
    at: float
