"""The farm's captions: read back word by word, and compared with what was drawn."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from nano4m.config.datasets import FarmDataset
from nano4m.config.presets import FARM, FARM_LARGE
from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe
from nano4m.data.sources import farm
from nano4m.data.sources.farm_animals import ANIMALS
from nano4m.data.sources.farm_factors import COATS, DISTANCES
from nano4m.tokenizers.bpe import BpeTokenizer

FREE = farm.plan(FarmDataset(train=5000, captions="free"), None, seed=0)
SHORT = farm.plan(FarmDataset(train=5000), None, seed=0)

NEAR = r"\b(nearby|close by|close to|not far off)\b"
FAR = r"\b(far away|in the distance|a long way off|far from)\b"
METRES = r"\b(?:about|roughly) (\w+) metres (?:away|off)\b"
VOICES = {
    "cat": "meow", "chicken": "cluck", "cow": "low", "coyote": "howl", "dog": "bark",
    "duck": "quack", "horse": "neigh", "lion": "roar", "pig": "oink", "pigeon": "coo",
    "sheep": "bleat",
}  # fmt: skip


def told(caption: str) -> dict[str, str]:
    """Return what a caption says, by factor; a second word for the same is a fault."""
    found = {
        "size": re.findall(r"\b(small|little|large|big)\b", caption),
        "coat": re.findall(rf"\b({'|'.join(COATS)})\b", caption),
        "side": re.findall(r"\b(left|right)\b", caption),
        "turn": re.findall(r"\b(towards|away from)\b", caption),
        "near": re.findall(NEAR, caption) and ["near"],
        "far": re.findall(FAR, caption) and ["far"],
        "metres": re.findall(METRES, caption),
        "class": re.findall(rf"\b({'|'.join(ANIMALS)})\b", caption),
    }
    assert all(len(own) <= 1 for own in found.values()), caption
    return {name: own[0] for name, own in found.items() if own}


def faults(plan) -> list[str]:
    """Return the names of what a caption says that is not so."""
    said, seen = told(plan.caption), plan.measures
    angle = np.deg2rad(seen["heading_degrees"])
    names = list(COATS)
    far = seen["distance_m"] >= np.sqrt(np.prod(DISTANCES))
    truth = {
        "size": ("large", "big") if seen["size_m"] >= 1 else ("small", "little"),
        "coat": (names[int(seen["coat"])],),
        "side": ("right",) if np.cos(angle) > 0 else ("left",),
        "turn": ("away from",) if np.sin(angle) > 0 else ("towards",),
        "near": () if far else ("near",),
        "far": ("far",) if far else (),
        "metres": ({3: "three", 4: "four"}[round(seen["distance_m"])],),
        "class": (plan.label,),
    }
    wrong = [name for name, word in said.items() if word not in truth[name]]
    if "turn" in said and abs(np.sin(angle)) < 0.5:
        wrong.append("turn")
    voice = VOICES[plan.label]
    if not re.search(rf"\b{voice}(s|ing)\b", plan.caption) or "class" not in said:
        wrong.append("voice")
    return wrong


def test_short_captions_tell_the_half_of_the_sizes_and_the_class():
    for plan in SHORT:
        word, label, voice = plan.caption.split(" ")
        assert word == ("small" if plan.measures["size_m"] < 1 else "large")
        assert label == plan.label and voice == f"{VOICES[label]}ing"
    words = Counter(plan.caption.split(" ")[0] for plan in SHORT)
    assert 0.46 < words["small"] / len(SHORT) < 0.54


def test_free_captions_are_true():
    wrong = {plan.caption: faults(plan) for plan in FREE}
    assert not any(wrong.values())


def test_a_false_caption_would_be_noticed():
    """Captions of other clips: most tell something that is not so."""
    swapped = [
        dataclasses.replace(plan, caption=other.caption)
        for plan, other in zip(FREE[:1000], FREE[1000:2000], strict=True)
    ]
    assert np.mean([bool(faults(plan)) for plan in swapped]) > 0.95


def test_free_captions_tell_some_of_the_factors_and_differ():
    counts: Counter[str] = Counter()
    sets: Counter[frozenset[str]] = Counter()
    for plan in FREE:
        said = told(plan.caption)
        own = {"size", "coat"} & said.keys()
        own |= {"heading"} if {"side", "turn"} & said.keys() else set()
        own |= {"distance"} if {"near", "far", "metres"} & said.keys() else set()
        assert len(own) >= 2
        counts.update(own)
        sets[frozenset(own)] += 1
    assert all(0.4 < n / len(FREE) < 0.8 for n in counts.values()) and len(counts) == 4
    assert len(sets) == 11 and min(sets.values()) > len(FREE) / 20
    assert len({plan.caption for plan in FREE[:5000]}) > 4000
    common = Counter(plan.caption for plan in FREE).most_common(1)[0][1]
    assert common < 20


def test_free_captions_are_plain_sentences():
    for plan in FREE:
        text = plan.caption
        assert re.fullmatch(r"[a-z ,;]+", text) and "  " not in text and " ," not in text
        assert not re.search(r"\b(\w+) \1\b", text) and not re.search(r"\ban? [aeiou]", text)
        assert len(re.findall(rf"\ba ((\w+) ){{0,2}}{plan.label}\b", text)) == 1


@pytest.mark.parametrize("preset", [FARM, FARM_LARGE], ids=lambda config: config.preset)
def test_the_tokenizer_of_the_presets_holds_both_kinds(preset):
    lengths = {}
    for plans, name in ((FREE, "free"), (SHORT, "short")):
        dataset = preset.dataset.model_copy(update={"captions": name})
        section = Config(**dict(preset) | {"dataset": dataset}).tokenizers["caption"]
        train = [p.caption for p in plans if p.split == "train"]
        other = [p.caption for p in plans if p.split != "train"]
        tokenizer = BpeTokenizer.fit(section, train, other)
        texts = [*train, *other]
        ids = tokenizer.encode(texts)
        assert not tokenizer.unknown(ids).any() and tokenizer.decode(ids) == texts
        lengths[name] = tokenizer.lengths(ids)
        # Length and vocabulary that are not used take no room.
        assert ids.shape[1] == lengths[name].max() < section.max_length
        assert tokenizer.vocab_size < section.vocab
    assert lengths["free"].min() >= 8 and lengths["free"].max() <= 24
    assert lengths["short"].max() == 4


def test_free_captions_get_room_and_short_ones_keep_their_settings():
    def config(captions: str, **settings) -> Config:
        dataset = FarmDataset(captions=captions)
        tokenizers = FARM.tokenizers | {"caption": Bpe(**settings)}
        return Config(**dict(FARM) | {"dataset": dataset, "tokenizers": tokenizers})

    small = {"vocab": 256, "max_length": 16}
    assert config("short", **small).tokenizers["caption"] == Bpe(**small)
    free = config("free", **small)
    assert free.tokenizers["caption"].max_length >= 22
    assert Config.model_validate_json(free.model_dump_json()) == free
    large = Bpe(vocab=4096, max_length=64)
    assert config("free", vocab=4096, max_length=64).tokenizers["caption"] == large
    others = {name: s for name, s in free.tokenizers.items() if name != "caption"}
    assert others == {name: s for name, s in FARM.tokenizers.items() if name != "caption"}
