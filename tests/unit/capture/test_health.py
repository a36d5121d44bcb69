import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.health import PictureHealth, Signature, is_black
from agent.records import SourceState
from tests.helpers.scripted_source import noise

LIVE, FROZEN, BLACK = SourceState.LIVE, SourceState.FROZEN, SourceState.BLACK


def states(health, looks, **how):
    return [health.look(pixels, now_s, 1.7e9 + now_s, **how).state for pixels, now_s in looks]


def test_identical_picture_is_frozen_only_after_its_time_and_live_with_the_next_bit():
    still = noise(1, 320, 240)
    moved = still.copy()
    moved[239, 319, 2] ^= 1  # a bit that is not in the sample
    health = PictureHealth(10.0, 0)
    looks = [(still, 0), (still, 1), (still, 5), (still, 10.9), (still, 11), (still, 60), (moved, 61), (still, 62)]
    assert states(health, looks) == [LIVE, LIVE, LIVE, LIVE, FROZEN, FROZEN, LIVE, LIVE]


@given(y=st.integers(0, 47), x=st.integers(0, 63), channel=st.integers(0, 2), bit=st.integers(0, 7))
def test_any_single_bit_is_a_change(y, x, channel, bit):
    signature, still = Signature(), noise(1)
    changed = still.copy()
    changed[y, x, channel] ^= 1 << bit
    assert [signature.repeats(still) for _ in range(3)] == [False, False, True]
    assert not signature.repeats(changed)


def test_rows_with_gaps_in_memory_are_looked_at_right():
    wide = noise(1, 128, 48)
    signature = Signature()
    assert [signature.repeats(wide[:, :64]) for _ in range(3)] == [False, False, True]
    assert not signature.repeats(wide[:, 64:])


def test_black_needs_its_time_and_wins_over_frozen():
    health, black = PictureHealth(10.0, 5.0), np.zeros((48, 64, 3), np.uint8)
    looks = [(noise(1), 0), (black, 1), (black, 5.9), (black, 6), (black, 30), (noise(2), 31), (black, 32)]
    assert states(health, looks) == [LIVE, LIVE, LIVE, BLACK, BLACK, LIVE, LIVE]


def test_single_black_frame_is_no_state():
    health, black = PictureHealth(10.0, 5.0), np.zeros((48, 64, 3), np.uint8)
    assert states(health, [(noise(1), 0), (black, 4), (noise(2), 8), (black, 12), (noise(3), 16)]) == [LIVE] * 5


def test_black_allows_noise_but_no_light_however_small():
    dark = np.random.default_rng(1).integers(0, 12, (240, 320, 3)).astype(np.uint8)
    assert is_black(dark)
    dark[101, 203] = 255
    assert not is_black(dark)
    assert not is_black(np.full((240, 320, 3), 20, np.uint8))


def test_zero_switches_a_test_off():
    black = np.zeros((48, 64, 3), np.uint8)
    assert states(PictureHealth(0, 0), [(black, t) for t in range(0, 1000, 10)]) == [LIVE] * 100


def test_finite_source_may_show_a_still_scene():
    assert states(PictureHealth(1.0, 0), [(noise(1), t) for t in range(20)], live=False) == [LIVE] * 20


def test_resolution_change_is_told_once():
    health = PictureHealth(10, 5)
    told = [health.look(noise(i, *size), i, i).changes
            for i, size in enumerate([(640, 360), (640, 360), (1280, 720), (1280, 720)])]
    assert told == [(), (), ("resolution changed 640x360 → 1280x720",), ()]


def test_clock_jumps_are_told_once_and_in_both_directions():
    health = PictureHealth(10, 5)
    offsets = [0, 0, 3600, 3600, 3601.9, -1000]
    told = [health.look(noise(i), i, 1e9 + i + offset).changes for i, offset in enumerate(offsets)]
    assert told == [(), (), ("clock jumped by +3600 s",), (), (), ("clock jumped by -4602 s",)]
