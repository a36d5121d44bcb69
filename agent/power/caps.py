"""How many frames per second the watts and the degrees allow. Pure: what was learned so far goes in and comes out.

**Watts.** Power is taken as ``base + joules * rate``. The joules of a frame come from the table of ``vedette tune``;
without one from the power at the lowest rate seen and the power now. The base is tracked: neighbours on the board come
and go, and an error in the joules ends up there, too, so the loop settles on the limit whatever the table says.
A margin keeps the noise of the load below the limit: it is measured, not set.

**Degrees.** The temperature is led to its limit along an exponential: it may rise only as fast as ``(limit - t) / 30
s``. That is a prediction some seconds ahead which needs no model of the heat sink: a board that heats up faster is held
back earlier.
"""

import math
from dataclasses import dataclass, replace

LAG_S = 0.7
"""Power follows the rate by about so long: batches under way, and the sensor's averaging."""
_BASE_S = 1.5  # the base follows what is measured in so many seconds
_NOISE_S = 15.0
_FIRST_NOISE = 0.008  # of the power, until it is measured
_CALM_S, _CALM = 4.0, 0.04  # the rate has not moved by more than this share for about so long
_COST_S = 4.0  # slower than the noise, or the noise would be taken for the cost of frames
_SETTLED_S = 3.0  # after a change of rate the residual says nothing about noise
_OUTLIER = 0.10  # of the power: more is no noise but a neighbour
_SIGMAS = 2.6  # of a normal distribution 0.5 % lies above
_LEAST_MARGIN, _MOST_MARGIN = 0.006, 0.15  # of the limit
_LEAST_TOLD = 0.2  # frames per second: of fewer the noise tells more than the cost
_LEAST_SHARE = 0.15  # of the power, that frames take, where nothing is known of their cost

_FAST_S, _SLOW_S = 3.0, 9.0  # two averages of the temperature, whose difference is its slope
_APPROACH_S = 30.0
_BELOW_C = 1.0  # aim so far below the limit
_FULL_LOAD_SLOPE = 0.15  # K/s that full load adds: 6 W into 40 J/K, a module with its heat sink
_GAIN = 0.10  # per second, of the cap, for each such slope that is missing or too much
_FAR_C = 6.0  # so far below the limit only the slope holds back
_MOST_AHEAD, _LEAST_AHEAD = 1.5, 0.05
_OVER_C_FACTOR = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What is known about power.

    Attributes:
        rate: Served frames per second, lagged as the power is.
        quick: The same with half the lag: what counts when the limit is exceeded.
        calm: The same with a long lag: where it differs from ``rate`` the loop is on its way somewhere.
        base: Watts without frames, tracked; None = nothing measured yet.
        low: The lowest rate that was held for a while, and the watts then.
        mean: Slow mean of the watts.
        variance: Of them around that mean, square watts: the noise of the load, slow waves included.
        joules: Of a frame, watt-seconds.
        settled_s: For how long the rate has not been changed much.
    """

    rate: float = 0.0
    quick: float = 0.0
    calm: float = 0.0
    base: float | None = None
    low: tuple[float, float] | None = None
    mean: float = 0.0
    variance: float = 0.0
    joules: float = 0.0
    settled_s: float = 0.0

    def margin(self, limit: float) -> float:
        """Return how far below ``limit`` to aim, watts."""
        return min(max(_SIGMAS * math.sqrt(self.variance), _LEAST_MARGIN * limit), _MOST_MARGIN * limit)

    def followed(self, watts: float, fps: float, known: float | None, dt_s: float) -> "Power":
        """Return what is known after ``dt_s`` seconds at ``fps`` served, at whose end ``watts`` were measured.

        Args:
            watts: Measured.
            fps: Frames served per second.
            known: Joules of a frame by the table; None = there is none.
            dt_s: Seconds.
        """
        rate = fps if self.base is None else self.rate + (fps - self.rate) * _share(dt_s, LAG_S)
        joules = known if known is not None else self._estimate(watts, rate, dt_s)
        if known is None and self.joules and fps < rate / 2:
            joules = self.joules  # on the way into a pause frames would only seem ever dearer
        if self.base is None:
            return replace(self, rate=fps, quick=fps, calm=fps, base=max(watts - joules * fps, 0.0), mean=watts,
                           variance=(_FIRST_NOISE * watts) ** 2, joules=joules)
        quick = self.quick + (fps - self.quick) * _share(dt_s, LAG_S / 2)
        calm = self.calm + (rate - self.calm) * _share(dt_s, _CALM_S)
        settled_s = self.settled_s + dt_s if abs(calm - rate) <= _CALM * max(rate, 0.1) else 0.0
        mean, variance, low = self.mean, self.variance, self.low
        if settled_s >= _SETTLED_S:
            share = _share(dt_s, _NOISE_S)
            off = min(max(watts - mean, -_OUTLIER * watts), _OUTLIER * watts)
            mean, variance = mean + share * (watts - mean), (1 - share) * (variance + share * off * off)
        else:
            mean += (watts - mean) * _share(dt_s, _SETTLED_S)
        if settled_s >= LAG_S and low is None:
            low = (rate, watts)
        elif settled_s >= LAG_S and low is not None and rate <= low[0] * 1.05:
            low = (min(rate, low[0]), low[1] + (watts - low[1]) * _share(dt_s, _BASE_S))
        base = max(self.base + (watts - joules * rate - self.base) * _share(dt_s, _BASE_S), 0.0)
        return Power(rate=rate, quick=quick, calm=calm, base=base, low=low, mean=mean, variance=variance, joules=joules,
                     settled_s=settled_s)

    def _estimate(self, watts: float, rate: float, dt_s: float) -> float:
        """Return the joules of a frame by what the lowest rate seen took.

        Close to that rate nothing can be learned: what is known stays, and at the start frames are taken for a small
        part of the power, for a first pace is always a slow one.
        """
        most = watts / max(rate, 0.1)
        if self.low is None:
            return _LEAST_SHARE * most
        if rate <= max(1.5 * self.low[0], _LEAST_TOLD):
            return self.joules or _LEAST_SHARE * most
        now = min(max((watts - self.low[1]) / (rate - self.low[0]), _LEAST_SHARE * most), most)
        return self.joules + (now - self.joules) * _share(dt_s, _COST_S) if self.joules else now


def rate_for_watts(power: Power, limit: float, watts: float, joules: float | None = None) -> float:
    """Return the frames per second at which the power stays below ``limit`` watts; below 0 when nothing does.

    A measurement above the limit counts in full, at once; one below it only as far as the tracked base follows it.

    Args:
        power: What is known, of the way that serves.
        limit: Watts.
        watts: Measured.
        joules: Of a frame of the way that is ordered; None = it is the one that serves.
    """
    base, cost = power.base or 0.0, power.joules if joules is None else joules
    if watts > limit:
        base, cost = max(base, watts - power.joules * power.quick), max(cost, power.joules)
    if cost <= 0.0:  # the sensor said 0 W so far: nothing speaks against any rate
        return math.inf if base < limit else 0.0
    return (limit - power.margin(limit) - base) / cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """What is known about heat.

    Attributes:
        fast: Average of the temperature over the last seconds, degrees Celsius; None = nothing measured yet.
        slow: A slower one.
        cap: Frames per second that may be served.
        far: The limit is far away: the cap only keeps the rate from jumping.
    """

    fast: float | None = None
    slow: float = 0.0
    cap: float = 0.0
    far: bool = False

    @property
    def slope(self) -> float:
        """Kelvin per second."""
        return (self.fast - self.slow) / (_SLOW_S - _FAST_S) if self.fast is not None else 0.0

    def followed(self, celsius: float, limit: float, fps: float, dt_s: float) -> "Heat":
        """Return what is known, and allowed, after ``dt_s`` seconds.

        The cap changes by a share of itself, so no capacity need be known; it never runs ahead of what is served by
        more than the temperature leaves room for, or it would have to come back first when the room is gone.

        Args:
            celsius: Measured.
            limit: Degrees Celsius.
            fps: Frames served per second; above 0.
            dt_s: Seconds since the last time.
        """
        if self.fast is None:
            return Heat(fast=celsius, slow=celsius, cap=fps * _OVER_C_FACTOR if celsius >= limit else fps,
                        far=limit - celsius > _FAR_C)
        heat = replace(self, fast=self.fast + (celsius - self.fast) * _share(dt_s, _FAST_S),
                       slow=self.slow + (celsius - self.slow) * _share(dt_s, _SLOW_S))
        room = ((limit - _BELOW_C - celsius) / _APPROACH_S - heat.slope) / _FULL_LOAD_SLOPE
        ahead = fps * (1 + min(max(room, _LEAST_AHEAD), _MOST_AHEAD))
        cap = min(max(self.cap, fps if room > 0 else 0.0) * math.exp(_GAIN * dt_s * max(room, -4.0)), ahead)
        far = room > 0 and limit - celsius > _FAR_C
        if far:
            cap = ahead
        if celsius >= limit:
            cap = min(cap, fps * _OVER_C_FACTOR)
        return replace(heat, cap=cap, far=far)


def _share(dt_s: float, time_constant_s: float) -> float:
    """Return the weight of the newest value in an exponential mean."""
    return 1.0 - math.exp(-dt_s / time_constant_s)
