"""Combinations of choices in which every two choices meet."""

from itertools import combinations, product


def pairwise_covering(sizes):
    """Rows, one choice from each axis, such that every pair of choices of any two axes is in some row.

    Greedy, axis by axis from the largest: all rows of the two largest first, to which each further axis adds the choice
    that meets most that it has not met. Never fewer rows than the product of the two largest; here hardly more.

    Args:
        sizes: choices of each axis.

    Returns:
        A list of tuples of indices, in the order of the axes.
    """
    order = sorted(range(len(sizes)), key=lambda axis: -sizes[axis])
    largest = [sizes[axis] for axis in order]
    rows = [list(row) for row in product(*map(range, largest[:2]))]
    for column in range(2, len(order)):
        _extend(rows, largest[column], largest[:column])
    place = {axis: column for column, axis in enumerate(order)}
    return [tuple(row[place[axis]] for axis in range(len(sizes))) for row in rows]


def _extend(rows, size, sizes):
    """Another choice for each row, and rows for the pairs that are left."""
    open_ = {(column, value, new) for column, n in enumerate(sizes) for value in range(n) for new in range(size)}
    used = [0] * size
    for row in rows:
        gains = [sum((column, value, new) in open_ for column, value in enumerate(row)) for new in range(size)]
        new = max(range(size), key=lambda new: (gains[new], -used[new]))
        used[new] += 1
        open_ -= {(column, value, new) for column, value in enumerate(row)}
        row.append(new)
    for column, value, new in sorted(open_):
        rows.append([value if c == column else 0 for c in range(len(sizes))] + [new])


def pairs_of(rows):
    """All pairs of choices that are in some row, as `((axis, choice), (axis, choice))`."""
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}
