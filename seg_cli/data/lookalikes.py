"""Pictures that look alike: pairs of 64-bit hashes of which hardly a bit differs.

They are found without comparing each with each, so that tens of thousands of pictures take a second or two.
"""

import numpy as np

MAX_DISTANCE = 5
"""Bits of 64 that may differ. Copies of another size or compression differ in 0 to 3, other pictures in 10 and more."""

_BITS = (11, 11, 11, 11, 10, 10)  # two hashes that differ in 5 bits agree in at least one of 6 bands
_CHUNK = 1 << 20  # comparisons at a time
_ONES = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)


def nearest(left: np.ndarray, right: np.ndarray, *, budget: int = 200_000_000) -> tuple[np.ndarray, np.ndarray, bool]:
    """For each hash on the right, the nearest on the left, if one is near enough.

    Hashes are compared only where a band of 10 or 11 bits agrees, so time follows the number of pictures that are
    somewhat alike, and memory the number of pictures.

    Args:
        left, right: (N,) and (M,) uint64.
        budget: comparisons after which the search ends; a second or two.

    Returns:
        (M,) int64 indices into ``left``, -1 where none is near; (M,) uint8 bits that differ; and whether the search
        went to its end.
    """
    found = np.full(len(right), -1, np.int64)
    distances = np.full(len(right), MAX_DISTANCE + 1, np.uint8)
    left_hashes, first_left = np.unique(np.asarray(left, np.uint64), return_index=True)
    right_hashes, back = np.unique(np.asarray(right, np.uint64), return_inverse=True)
    best = np.full(len(right_hashes), -1, np.int64)
    best_distance = np.full(len(right_hashes), MAX_DISTANCE + 1, np.uint8)
    shift = 0
    for bits in _BITS:
        left_keys, right_keys = (
            ((hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)).astype(np.int64)
            for hashes in (left_hashes, right_hashes)
        )
        shift += bits
        left_order, right_order = np.argsort(left_keys, kind="stable"), np.argsort(right_keys, kind="stable")
        shared = np.intersect1d(left_keys, right_keys)
        left_spans = _spans(left_keys[left_order], shared)
        right_spans = _spans(right_keys[right_order], shared)
        for (left_from, left_to), (right_from, right_to) in zip(left_spans, right_spans, strict=True):
            ours, theirs = left_order[left_from:left_to], right_order[right_from:right_to]
            rows = max(1, _CHUNK // len(ours))
            for start in range(0, len(theirs), rows):
                chunk = theirs[start : start + rows]
                budget -= len(chunk) * len(ours)
                if budget < 0:
                    break
                apart = hamming(right_hashes[chunk][:, None], left_hashes[ours][None])
                nearest_of = apart.argmin(1)
                distance = apart[np.arange(len(chunk)), nearest_of]
                nearer = distance < best_distance[chunk]
                best_distance[chunk[nearer]] = distance[nearer]
                best[chunk[nearer]] = ours[nearest_of[nearer]]
    is_near = best[back] >= 0
    found[is_near] = first_left[best[back][is_near]]
    distances[is_near] = best_distance[back][is_near]
    return found, distances, budget >= 0


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bits of uint64 ``a`` and ``b`` differ, broadcast; uint8."""
    words = np.bitwise_xor(a, b)[..., None].view(np.uint16)
    return _ONES[words].sum(-1, dtype=np.uint8)


def _spans(ordered: np.ndarray, keys: np.ndarray) -> list[list[int]]:
    """From where to where each key stands in ordered keys."""
    return np.stack((np.searchsorted(ordered, keys, "left"), np.searchsorted(ordered, keys, "right")), 1).tolist()
