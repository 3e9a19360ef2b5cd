"""Clusters of clips, against loops over pairs, and who asks for pictures."""

import numpy as np
import pytest

from nano4m.evaluate.clusters import ClipOrigins, connected_clusters


def brute_force(*keys):
    """Clusters by joining pairs until nothing changes."""
    found = np.arange(len(keys[0]))
    changed = True
    while changed:
        changed = False
        for key in keys:
            for i in range(len(key)):
                for j in range(i):
                    if key[i] and key[i] == key[j] and found[i] != found[j]:
                        found[[i, j]] = found[[i, j]].min()
                        changed = True
    return found


@pytest.mark.parametrize("seed", range(20))
def test_clusters_are_the_connected_components(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    keys = [np.array([str(k or "") for k in rng.integers(0, n, n)]) for _ in range(2)]
    for given in (keys[:1], keys):
        found, wanted = connected_clusters(*given), brute_force(*given)
        assert ((found[:, None] == found) == (wanted[:, None] == wanted)).all()
        assert set(found) == set(range(found.max() + 1))


def test_unknown_pictures_join_nothing_and_chains_join_all():
    origins = ClipOrigins(np.array(["a", "b", "c", "d"]), np.array(["", "", "p", "p"]))
    assert len(set(origins.clusters(with_pictures=False))) == 4
    assert origins.clusters(with_pictures=True).tolist() == [0, 1, 2, 2]
    chain = ClipOrigins(np.array(["a", "a", "b", "b"]), np.array(["p", "q", "q", "r"]))
    assert set(chain.clusters(with_pictures=True)) == {0}
