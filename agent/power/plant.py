"""A simulated board for trying the governor: what it takes and how hot it gets when frames are served. No randomness.

``watts = idle + joules * fps`` through a first-order lag, and one thermal resistance and capacity to the ambient air:
``C dT/dt = watts - (T - ambient) / R``. The source of the figures the bench uses stands in bench/governor.py.
"""

import math
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Plant:
    """A board; ``step`` moves it on.

    Attributes:
        idle: Watts without frames.
        joules: Of one frame.
        capacity: Frames per second at most.
        lag_s: Time constant with which power follows the frames.
        resistance: Kelvin per watt to the ambient air.
        heat_capacity: Joules per kelvin.
        ambient: Degrees Celsius.
        watts: Now.
        celsius: Now.
        fps: Served now.
    """

    idle: float
    joules: float
    capacity: float
    lag_s: float = 0.5
    resistance: float = 2.0
    heat_capacity: float = 50.0
    ambient: float = 25.0
    watts: float = 0.0
    celsius: float = 0.0
    fps: float = 0.0

    def rest(self) -> None:
        """Let it be as after a long time without frames."""
        self.watts, self.fps = self.idle, 0.0
        self.celsius = self.ambient + self.resistance * self.idle

    def step(self, rate: float | None, dt_s: float, disturbance: float = 0.0) -> None:
        """Serve at ``rate`` frames per second (None = as many as can be) for ``dt_s`` seconds.

        Args:
            rate: What the loop may do.
            dt_s: Seconds.
            disturbance: Watts that something else takes, or that these pictures take more than others.
        """
        self.fps = self.capacity if rate is None else min(rate, self.capacity)
        settled = self.idle + self.joules * self.fps + disturbance
        self.watts += (settled - self.watts) * (1 - math.exp(-dt_s / self.lag_s))
        balance = self.ambient + self.resistance * self.watts
        self.celsius += (balance - self.celsius) * (1 - math.exp(-dt_s / (self.resistance * self.heat_capacity)))
