"""Best-fit packing: whole examples laid into rows of fixed length so that little of a row is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Lay items of `lengths` into rows of `row_length`, longest first, each into the fullest row that still takes it.

    Returns the rows as lists of item indices. No item is split; every length must be in 1..row_length. The result
    follows from the lengths alone (best-fit decreasing; at most 11/9 of the optimal number of rows plus one).
    """
    rows: list[list[int]] = []
    # Rows by room left, as sorted (room, row) pairs: the first pair not below the length is the best fit.
    open_rows: list[tuple[int, int]] = []
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[item]
        if not 0 < length <= row_length:
            raise ValueError(f"length of item {item} must be in 1..{row_length}, found {length}")
        place = bisect_left(open_rows, (length, -1))
        if place < len(open_rows):
            room, row = open_rows.pop(place)
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(item)
        if room > length:
            insort(open_rows, (room - length, row))
    return rows


def efficiency(lengths: Sequence[int], num_rows: int, row_length: int) -> float:
    """Share of the tokens of packed rows that are not padding."""
    return sum(lengths) / (num_rows * row_length) if num_rows else 1.0
