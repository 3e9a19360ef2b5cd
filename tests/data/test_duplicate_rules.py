"""Which clips that are found in two splits move, against a search of all ways on small tables."""

import itertools
from collections import Counter

import numpy as np
import pytest
from test_duplicates import facts

from nano4m.data.duplicate_rules import MOST_MOVED, SPLITS, choose_moves


def after(clips, moves) -> list[str]:
    return [moves[i][0] if i in moves else split for i, split in enumerate(clips.splits)]


def test_what_is_linked_moves_to_where_most_of_it_stands_and_to_train_among_equals():
    clips = facts(["train"] * 8 + ["val"] * 4 + ["test"] * 4)
    for pair, target in (((0, 8), "train"), ((0, 12), "train"), ((8, 12), "val")):
        moves = choose_moves([(*pair, "sound")], clips)
        assert {i: split for i, (split, _) in moves.items()} == {pair[1]: target}
    groups = [f"g{i}" for i in range(8)] + ["film", "film", "b", "c"] + list("wxyz")
    moves = choose_moves([(0, 8, "sound")], facts(list(clips.splits), groups))
    assert {i: split for i, (split, _) in moves.items()} == {0: "val"}
    chain = [(0, 8, "sound"), (1, 8, "picture"), (8, 12, "sound")]
    moves = choose_moves(chain, clips)
    assert {i: split for i, (split, _) in moves.items()} == {8: "train", 12: "train"}


def test_a_class_does_not_lose_most_of_its_clips_of_a_split():
    clips = facts(["train"] * 9 + ["val"])
    moves = choose_moves([(0, 9, "sound")], clips)
    assert {i: split for i, (split, _) in moves.items()} == {0: "val"}
    # Neither way: all of both splits are linked.
    every = [(i, 9, "sound") for i in range(9)]
    assert choose_moves(every, clips) == {}


def test_given_splits_and_drawn_pictures_do_not_move():
    splits = ["train"] * 8 + ["val"] * 4
    for fixed in (0, 8):
        clips = facts(splits, fixed=[i == fixed for i in range(12)])
        assert choose_moves([(0, 8, "sound")], clips) == {}
    clips = facts(splits, draws=[i == 0 for i in range(12)])
    assert choose_moves([(0, 8, "picture")], clips) == {}
    assert choose_moves([(0, 8, "sound")], clips).keys() == {8}


@pytest.mark.parametrize("seed", range(40))
def test_random_tables_against_a_search_of_all_ways(seed):
    rng = np.random.default_rng(seed)
    n = 60
    of_group = rng.integers(0, 45, n)
    dealt = rng.choice(SPLITS, 45, p=[0.7, 0.2, 0.1])
    splits = [str(dealt[g]) for g in of_group]
    clips = facts(
        splits,
        [f"g{g}" for g in of_group],
        labels=[("cat", "dog")[g % 2] for g in of_group],
        kept=(rng.random(n) < 0.9).tolist(),
    )
    tried = rng.integers(0, n, (int(rng.integers(1, 12)), 2)).tolist()
    pairs = [(a, b, "sound") for a, b in tried if splits[a] != splits[b]]
    moves = choose_moves(pairs, clips)
    now = after(clips, moves)
    # Whole groups, each in one split.
    assert all(len({now[i] for i in range(n) if of_group[i] == g}) <= 1 for g in set(of_group))
    # Every linked set is in one split or as it was; its members by a search without union-find.
    linked: list[set[int]] = []
    for a, b, _ in pairs:
        own = {i for i in range(n) if of_group[i] in (of_group[a], of_group[b])}
        meets = [s for s in linked if s & own]
        linked = [s for s in linked if not s & own] + [own.union(*meets)]
    for own in linked:
        sizes = Counter(splits[i] for i in own if clips.kept[i])
        found = {now[i] for i in own}
        if len(found) == 1:
            continue
        assert not own & moves.keys()
        # No way was open, given all that moved.
        for target in sizes:
            lost = Counter((clips.labels[i], splits[i]) for i in [*own, *moves] if clips.kept[i]
                           and (i in moves or splits[i] != target))  # fmt: skip
            of = Counter((clips.labels[i], splits[i]) for i in range(n) if clips.kept[i])
            assert any(lost[key] > MOST_MOVED * of[key] for key in lost)
    for label, split in itertools.product(("cat", "dog"), SPLITS):
        own = [i for i in range(n) if clips.labels[i] == label and splits[i] == split]
        kept = [i for i in own if clips.kept[i]]
        assert sum(i in moves for i in kept) <= MOST_MOVED * len(kept)
