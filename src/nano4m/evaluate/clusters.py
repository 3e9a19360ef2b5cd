"""Clusters of clips: those that share a recording or a picture are not independent.

Two clips that share either are joined, and so is whoever is joined with one of them: clusters are
the connected components.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected_clusters(*keys: np.ndarray) -> np.ndarray:
    """Return the cluster of each clip, int64 (n,) from 0: clips that are equal in any key are one.

    Args:
        keys: String arrays (n,), one at least; an empty string is unknown and joins nothing.
    """
    n = len(keys[0])
    clips, values, offset = [np.arange(n)], [np.arange(n)], n
    for key in keys:
        known = np.flatnonzero(np.asarray(key, dtype=str) != "")
        names, place = np.unique(np.asarray(key, dtype=str)[known], return_inverse=True)
        clips.append(known)
        values.append(place + offset)
        offset += len(names)
    # A graph of clips and values; a clip stands beside each of its values.
    rows, columns = np.concatenate(clips), np.concatenate(values)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(offset, offset))
    found = connected_components(graph, directed=False)[1][:n]
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class ClipOrigins:
    """Where clips come from.

    Attributes:
        recordings: Recording or video of each clip, string (n,).
        pictures: The picture of its first frame, string (n,); empty where there is none.
    """

    recordings: np.ndarray
    pictures: np.ndarray

    def take(self, clips: np.ndarray) -> "ClipOrigins":
        """Return those of some clips, int (m,)."""
        return ClipOrigins(self.recordings[clips], self.pictures[clips])

    def clusters(self, with_pictures: bool) -> np.ndarray:
        """Return the cluster of each clip, int64 (n,), by recording and, if asked, by picture."""
        keys = (self.recordings, self.pictures) if with_pictures else (self.recordings,)
        return connected_clusters(*keys)
