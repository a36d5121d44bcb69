"""Ranges of sequences: which part of a range do others cover? Pure."""

from collections.abc import Iterable, Iterator


class Ranges:
    """Closed ranges of sequences, joined where they overlap.

    Args:
        ranges: (first, last), sorted by the first.

    Attributes:
        joined: The ranges, no two of which overlap, in order.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self.joined: list[tuple[int, int]] = []
        for first, last in ranges:
            if self.joined and first <= self.joined[-1][1]:
                self.joined[-1] = (self.joined[-1][0], max(last, self.joined[-1][1]))
            else:
                self.joined.append((first, last))
        self._at = 0

    def split(self, first: int, last: int) -> Iterator[tuple[int, int, int | None]]:
        """Cut first..last where ranges begin and end; asked in rising order only.

        Yields:
            (first, last, number in :attr:`joined` of the range that covers this part, or None).
        """
        while first <= last:
            while self._at < len(self.joined) and self.joined[self._at][1] < first:
                self._at += 1
            if self._at == len(self.joined) or self.joined[self._at][0] > last:
                yield first, last, None
                return
            start, end = self.joined[self._at]
            if first < start:
                yield first, start - 1, None
            yield max(first, start), min(last, end), self._at
            first = end + 1
