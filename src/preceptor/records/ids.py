"""A set of the ids of samples or tokens, which are mostly runs of consecutive numbers."""

from collections.abc import Iterator

import numpy as np


class Ids:
    """Distinct int64 numbers, held as ranges: 16 bytes for each, however long it is.

    Ranges that were added one after the other are merged as their number doubles, so that adding n numbers in any order
    takes O(n log n), and looking up one O((log n)^2).

    >>> ids = Ids()
    >>> ids.add(np.array([3, 4, 5, 9]))
    >>> ids.add(np.array([6]))
    >>> ids.has(np.array([6, 7])).tolist(), len(ids), 9 in ids, list(ids)
    ([True, False], 5, True, [3, 4, 5, 6, 9])
    """

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []  # each (2, n): where ranges begin, ascending, and end

    def add(self, ids: np.ndarray) -> None:
        """Take some numbers in, int64 (n,), in any order."""
        if not len(ids):
            return
        self._parts.append(_joined(np.stack([ids, ids + 1])))
        while len(self._parts) > 1 and self._parts[-2].shape[1] <= 2 * self._parts[-1].shape[1]:
            self._parts[-2:] = [_joined(np.concatenate(self._parts[-2:], 1))]

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Which of some numbers are in it, bool (n,)."""
        found = np.zeros(len(ids), bool)
        for begins, ends in self._parts:
            place = np.searchsorted(begins, ids, side="right") - 1
            found |= (place >= 0) & (ids < ends[place])
        return found

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int | np.integer) and bool(self.has(np.array([number]))[0])

    def __iter__(self) -> Iterator[int]:
        """In ascending order."""
        if self._parts:
            for begin, end in _joined(np.concatenate(self._parts, 1)).T.tolist():
                yield from range(begin, end)

    def __len__(self) -> int:
        ranges = _joined(np.concatenate(self._parts, 1)) if self._parts else np.zeros((2, 0), np.int64)
        return int((ranges[1] - ranges[0]).sum())


def _joined(ranges: np.ndarray) -> np.ndarray:
    """Ranges (2, n) in ascending order, those that touch or overlap as one."""
    begins, ends = ranges[:, np.argsort(ranges[0], kind="stable")]
    reached = np.maximum.accumulate(ends)
    apart = np.flatnonzero(begins[1:] > reached[:-1]) + 1
    return np.stack([begins[np.r_[0, apart]], reached[np.r_[apart - 1, len(begins) - 1]]])
