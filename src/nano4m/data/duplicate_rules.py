"""What happens to clips that are found in two splits: they move into one, or are left out.

A group moves as a whole, to the split where most of what is linked by duplicates already stands;
so nothing is lost, and nothing is trained on that is tested. Splits that the user or the source
gives stay as they are: there the last one counts, test before val before train.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")
"""Among equals, clips move to the earlier of these, and are left out of it."""

DUPLICATE = "duplicate"
"""Beginning of the reason of an excluded clip."""

SOUND = "sound"
"""What two clips share, beside a picture."""

MOST_MOVED = 0.5
"""Share of a class's clips of a split that may move out of it."""

Pair = tuple[int, int, str]
"""Numbers of two clips, and what they share."""


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What is known of all clips; lists by number.

    Attributes:
        splits, labels: Split and class.
        groups: Clips of one group are in one split.
        kept: Whether a clip is kept.
        fixed: Whether its split is given and not dealt.
        draws: Whether its pictures are drawn from those of its class and split.
    """

    splits: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]
    kept: Sequence[bool]
    fixed: Sequence[bool]
    draws: Sequence[bool]

    def units(self) -> dict[int, tuple[int, ...]]:
        """Return the clips of the group, in its split, of each clip."""
        members: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, group in enumerate(self.groups):
            members[group, self.splits[i]].append(i)
        return {i: unit for own in members.values() for unit in (tuple(own),) for i in own}


def choose_moves(pairs: Sequence[Pair], clips: ClipFacts) -> dict[int, tuple[str, Pair]]:
    """Return the clips that move: number -> (split, a pair of what is linked).

    Groups that share a sound, or a picture that is their own, move together to the split that
    holds most of their kept clips. If a class would lose more than ``MOST_MOVED`` of its clips of a
    split by that, they move to the next best one; if there is none, or if a split of one of them is
    given, none of them moves.

    Args:
        pairs: Of clips of different splits.
        clips: All clips.
    """
    units = clips.units()
    linked = _components(
        [p for p in pairs if p[2] == SOUND or not (clips.draws[p[0]] or clips.draws[p[1]])], units
    )
    left = Counter((clips.labels[i], clips.splits[i]) for i, kept in enumerate(clips.kept) if kept)
    most = {key: count * MOST_MOVED for key, count in left.items()}
    gone: Counter[tuple[str, str]] = Counter()
    moves: dict[int, tuple[str, Pair]] = {}
    for numbers, pair in linked:
        if any(clips.fixed[i] for i in numbers):
            continue
        sizes = Counter(clips.splits[i] for i in numbers if clips.kept[i])
        for target in sorted(sizes, key=lambda split: (-sizes[split], SPLITS.index(split))):
            moving = [i for i in numbers if clips.splits[i] != target]
            lost = Counter((clips.labels[i], clips.splits[i]) for i in moving if clips.kept[i])
            if all(gone[key] + count <= most[key] for key, count in lost.items()):
                gone += lost
                moves |= dict.fromkeys(moving, (target, pair))
                break
    return moves


def _components(
    pairs: Sequence[Pair], units: dict[int, tuple[int, ...]]
) -> list[tuple[list[int], Pair]]:
    """Return the clips of units that pairs link, in order, each set with its first pair."""
    numbers = sorted({unit for pair in pairs for unit in (units[pair[0]], units[pair[1]])})
    place = {unit: k for k, unit in enumerate(numbers)}
    links = [(place[units[i]], place[units[j]]) for i, j, _ in pairs]
    if not links:
        return []
    # Here, because most folders have no duplicates and SciPy takes a tenth of a second to load.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.array(links).T
    shape = (len(numbers), len(numbers))
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    _, owners = connected_components(graph, directed=False)
    first = {int(owners[row]): pair for row, pair in reversed(list(zip(rows, pairs, strict=True)))}
    members: dict[int, list[int]] = defaultdict(list)
    for unit, owner in zip(numbers, owners.tolist(), strict=True):
        members[owner] += unit
    return [(sorted(own), first[owner]) for owner, own in members.items()]


def choose_excluded(pairs: Sequence[Pair], clips: ClipFacts) -> dict[int, Pair]:
    """Return the clips to exclude so that no pair is left, each with a pair that it is in.

    A clip whose sound is found twice goes with its whole group, as other clips of one recording
    are of the other one too; a picture, which clips may draw from those of their class, costs one
    clip. Of a pair with a given split, the clip of the earlier split goes. Else who has the most
    duplicates a clip is excluded first, so that few are lost; among equals, one of the train split,
    the largest.

    Args:
        pairs: Of clips of different splits.
        clips: All clips.
    """
    units = clips.units()
    excluded: dict[int, Pair] = {}
    for pair in pairs:
        if clips.fixed[pair[0]] or clips.fixed[pair[1]]:
            gone = min(pair[:2], key=lambda i: SPLITS.index(clips.splits[i]))
            for i in units[gone] if pair[2] == SOUND else (gone,):
                excluded.setdefault(i, pair)
    left = [p for p in pairs if not {*p[:2]} & excluded.keys()]
    while left:
        found: Counter[tuple[int, ...]] = Counter()
        for first, second, what in left:
            for i in (first, second):
                found[units[i] if what == SOUND else (i,)] += 1
        worst = max(
            found,
            key=lambda unit: (
                found[unit] / len(unit),
                -SPLITS.index(clips.splits[unit[0]]),
                -unit[0],
            ),
        )
        pair = next(p for p in left if {*p[:2]} & {*worst} and (p[2] == SOUND or len(worst) == 1))
        excluded |= {i: pair for i in worst if i not in excluded}
        left = [p for p in left if not {*p[:2]} & {*worst}]
    return excluded
