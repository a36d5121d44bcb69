"""Gaps as sums: of counts, ranges, types and times."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.report.gaps import Gap, can_merge, merged

TIMES = st.none() | st.sampled_from(["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000001Z", "2027-01-01T00:00:00.000000Z"])


@st.composite
def gaps(draw):
    first = draw(st.none() | st.integers(1, 10**6))
    return Gap(reason="spool_full", count=draw(st.none() | st.integers(1, 10**6)), first=first,
               last=None if first is None else first + draw(st.integers(0, 10**6)),
               types=draw(st.dictionaries(st.sampled_from(["detection", "source.state"]), st.integers(1, 1000))),
               since=draw(TIMES), until=draw(TIMES), detail=draw(st.text(max_size=600)))


def test_two_gaps_are_one_that_spans_both():
    one = Gap(reason="max_age", count=3, first=10, last=14, types={"detection": 3}, since="2026-02-01", until="2026-02-02")
    other = Gap(reason="max_age", count=2, first=4, last=6, types={"detection": 1, "source.state": 1}, since="2026-01-01",
                until="2026-01-02", detail="why")
    assert merged(one, other) == Gap(
        reason="max_age", count=5, first=4, last=14, types={"detection": 4, "source.state": 1}, since="2026-01-01",
        until="2026-02-02", detail="why")


def test_what_is_not_known_stays_so_or_is_taken_from_the_other():
    known = Gap(reason="spool_full", count=3, first=1, last=9, since="2026-01-01", until="2026-01-02", detail="old")
    unknown = Gap(reason="spool_full")
    for gap in (merged(known, unknown), merged(unknown, known)):
        assert gap.count is None
        assert (gap.first, gap.last, gap.since, gap.until, gap.detail) == (1, 9, "2026-01-01", "2026-01-02", "old")


@given(gaps(), gaps(), gaps())
def test_the_order_of_merging_matters_to_the_detail_only(one, two, three):
    def facts(gap):
        return msgspec.structs.replace(gap, detail="")

    assert facts(merged(one, two)) == facts(merged(two, one))
    assert facts(merged(merged(one, two), three)) == facts(merged(one, merged(two, three)))
    assert len(merged(one, two).detail) <= 500


@pytest.mark.parametrize(("reason", "whether"), [
    ("spool_full", True), ("disk_full", True), ("max_age", True), ("memory_full", True), ("unclean_stop", True),
    ("dead_letter", False), ("spool_reset", False)])
def test_what_must_be_named_alone(reason, whether):
    assert can_merge(reason) is whether
