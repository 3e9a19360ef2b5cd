"""Captions to ids and back: byte-level byte-pair encoding learnt on the captions of a run.

Sennrich et al. 2016 (arXiv:1508.07909) over bytes as GPT-2 does it, trained by the tokenizers
library. Unlike there, only the bytes that the train captions hold have an id, so that a vocabulary
of a few hundred has room for whole words; any other byte becomes UNKNOWN.
"""

import json
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

import tokenizers
from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.modalities import TEXT_END
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.long_captions import cut_at_word, quoted, tell_long, tell_strange
from tokenizers import decoders, models, pre_tokenizers, trainers

UNKNOWN = 1
"""Id of every byte that no train caption holds; it decodes to U+FFFD."""

# Byte-level text has no space in it (a space is written as U+0120), so no merge can make these.
_SPECIAL = ["end of text", "not seen"]


class BpeTokenizer(Tokenizer):
    """Ids (B, max_length) of captions, each ended by TEXT_END and padded with it.

    Spaces, case and punctuation survive the round trip exactly; bytes unseen in training do not.

    Args:
        vocab: Token to id, TEXT_END and UNKNOWN included.
        merges: Pairs in the order in which they were learnt.
        max_length: Longest caption in tokens, its end included.
    """

    key = "bpe"
    licence = "that of the captions it was fitted on"

    def __init__(
        self, vocab: dict[str, int], merges: list[tuple[str, str]], max_length: int
    ) -> None:
        self.vocab, self.merges, self.max_length = (
            dict(vocab),
            [(a, b) for a, b in merges],
            max_length,
        )
        self.shape = (max_length,)
        self.vocab_size = len(vocab)
        self._names = {i: name for name, i in vocab.items()}
        self._decoder = decoders.ByteLevel()
        self._bpe = tokenizers.Tokenizer(
            models.BPE(vocab=self.vocab, merges=self.merges, unk_token=_SPECIAL[UNKNOWN])
        )
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @classmethod
    def prepare(
        cls, section: Bpe, material: Material, seed: int, device: torch.device
    ) -> "BpeTokenizer":
        """Return a fitted tokenizer, see ``fit``; say what becomes of too long captions.

        Raises:
            UserError: As ``fit``; or a caption is too long, and is to be refused.
        """
        name = material.modality
        found = cls.fit(section, material.train, material.texts, name)
        named = list(zip(material.clip_ids, material.texts, strict=False))
        tokens = [found._tokens(text) for _, text in named]
        long = [
            (*own, len(ids) + 1)
            for own, ids in zip(named, tokens, strict=True)
            if len(ids) >= section.max_length
        ]
        tell_long(name, long, len(named), section, lambda text: found._within(text, section))
        tell_strange(
            name,
            [own for own, ids in zip(named, tokens, strict=True) if UNKNOWN in ids],
            len(named),
        )
        return found

    @classmethod
    def fit(
        cls,
        section: Bpe,
        captions: list[str],
        others: list[str] | None = None,
        name: str = "caption",
    ) -> "BpeTokenizer":
        """Return a tokenizer fitted on ``captions``; ``others`` (other splits) only give a length.

        Args:
            section: Its settings.
            captions: Of the train split.
            others: Of all splits.
            name: Of the modality, for messages.

        Raises:
            UserError: No caption, or a vocabulary smaller than the bytes.
        """
        if not any(captions):
            raise UserError(
                "no caption to learn a vocabulary from; leave the caption tokenizer out"
            )
        trainer = trainers.BpeTrainer(
            vocab_size=section.vocab, special_tokens=_SPECIAL, show_progress=False
        )
        learner = tokenizers.Tokenizer(models.BPE(unk_token=_SPECIAL[UNKNOWN]))
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.train_from_iterator(sorted(captions), trainer)
        vocab = learner.get_vocab()
        if len(vocab) > section.vocab:
            raise UserError(
                f"vocab {section.vocab} is smaller than the {len(vocab)} ids that the bytes of "
                f"these captions and {len(_SPECIAL)} special tokens need; raise "
                f"--tokenizers.{name}.vocab to {len(vocab)} or more"
            )
        merges = _merges(learner)
        counted = cls(vocab, merges, section.max_length)
        lengths = {counted.count(c) for c in {*captions, *(others or [])}}
        if section.too_long == "leave_out":
            lengths = {n for n in lengths if n <= section.max_length}
        longest = max(lengths, default=section.max_length)
        return cls(vocab, merges, min(section.max_length, longest))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text of any length, its end included."""
        return len(self._tokens(text)) + 1

    def usable(self, texts: Sequence[str], section: Bpe) -> list[str]:
        """Return the texts of a clip that are short enough, or made so, see ``Bpe.too_long``."""
        return super().usable([self._within(text, section) for text in texts], section)

    def _within(self, text: str, section: Bpe) -> str:
        found = self._bpe.encode(text)
        if len(found) < self.max_length or section.too_long == "refuse":
            return text
        if section.too_long == "leave_out" or self.max_length < 2:
            return ""
        end = found.offsets[self.max_length - 2][1]
        return cut_at_word(text, end, lambda part: self.count(part) <= self.max_length)

    def to(self, device: torch.device | str) -> Self:
        """Return this tokenizer; it has no weights, and its ids stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def encode(self, media: list[str]) -> Tensor:
        """Return the ids of captions, int64 (B, max_length); ``unknown`` counts bytes without one.

        Raises:
            UserError: A caption has more tokens than max_length.
            ValueError: ``media`` is not a list of strings.
        """
        if isinstance(media, str) or not all(isinstance(c, str) for c in media):
            raise ValueError(f"captions must be a list of strings, not {type(media).__name__}")
        ids = torch.full((len(media), self.max_length), TEXT_END, dtype=torch.int64)
        for row, caption in enumerate(media):
            tokens = self._tokens(caption)
            if len(tokens) + 1 > self.max_length:
                raise UserError(
                    f"caption {quoted(caption)} has {len(tokens) + 1} tokens with its end, the "
                    f"longest allowed has {self.max_length}; shorten it"
                )
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return ids

    def decode(self, ids: Tensor) -> list[str]:
        """Return the captions of ids (B, max_length), each up to its first TEXT_END."""
        from nano4m.tokenizers.quantize import check_ids

        ids = ids.cpu()
        check_ids(ids, self.shape, self.vocab_size)
        rows = zip(ids.tolist(), self.lengths(ids).tolist(), strict=True)
        return [self._text([i for i in row[:n] if i != TEXT_END]) for row, n in rows]

    def lengths(self, ids: Tensor) -> Tensor:
        """Return the number of tokens of each caption, int64 (B,), its end included.

        A row without TEXT_END counts whole.
        """
        is_end = ids == TEXT_END
        first = is_end.int().argmax(1) + 1
        return torch.where(is_end.any(1), first, ids.shape[1])

    def unknown(self, ids: Tensor) -> Tensor:
        """Return how many tokens of each caption are UNKNOWN, int64 (B,)."""
        return (ids == UNKNOWN).sum(1)

    def strange(self, text: str) -> list[str]:
        """Return the signs of a text, each once, that have a byte which no train caption has."""
        return [sign for sign in dict.fromkeys(text) if UNKNOWN in self._tokens(sign)]

    def state(self) -> tuple[dict, dict[str, Tensor]]:
        """Return vocabulary and merges; there are no weights."""
        merges = [list(m) for m in self.merges]
        return {"vocab": self.vocab, "merges": merges, "max_length": self.max_length}, {}

    @classmethod
    def from_state(cls, settings: dict, tensors: dict[str, Tensor]) -> "BpeTokenizer":
        """Return the tokenizer with this state."""
        return cls(
            settings["vocab"], [tuple(m) for m in settings["merges"]], settings["max_length"]
        )

    def _tokens(self, caption: str) -> list[int]:
        return self._bpe.encode(caption).ids

    def _text(self, ids: list[int]) -> str:
        text, seen = "", []
        for i in [*ids, UNKNOWN]:
            if i != UNKNOWN:
                seen.append(self._names[i])
                continue
            text += self._decoder.decode(seen) + "\ufffd"
            seen = []
        return text[:-1]


def _merges(learner: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
