"""What the ids of a token table or a checkpoint mean."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from nano4m.errors import UserError
from nano4m.modalities import Modality


@dataclass(frozen=True)
class TokenSpec:
    """What ids mean: the modalities of a run and the fingerprint of each one's tokenizer.

    A table and a checkpoint match if their token specs are equal.
    """

    modalities: tuple[Modality, ...]
    tokenizers: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return a JSON object; ``from_json`` is the inverse."""
        return {
            "modalities": [m.to_json() for m in self.modalities],
            "tokenizers": dict(self.tokenizers),
        }

    @classmethod
    def from_json(cls, entry: dict) -> "TokenSpec":
        """Return the token spec that ``to_json`` wrote."""
        return cls(tuple(Modality.from_json(m) for m in entry["modalities"]), entry["tokenizers"])

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits, equal if ids have the same meaning.

        They depend on name, layout, shape, vocabulary size and tokenizer fingerprint of each
        modality, not on how it is displayed.
        """
        parts = [
            [m.name, m.layout, list(m.shape), m.vocab_size, self.tokenizers.get(m.name)]
            for m in self.modalities
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def require_same(self, other: "TokenSpec", mine: str, theirs: str) -> None:
        """Raise an error if the ids of ``other`` have another meaning.

        Raises:
            UserError: Names both fingerprints, the modalities that differ, and what to run.
        """
        if self.fingerprint == other.fingerprint:
            return
        here, there = dict(self.tokenizers), dict(other.tokenizers)
        differ = [
            f"{n}: {here.get(n, 'absent')} / {there.get(n, 'absent')}"
            for n in sorted(here.keys() | there.keys())
            if here.get(n) != there.get(n)
        ] or ["the shapes or vocabulary sizes of the modalities"]
        raise UserError(
            f"{mine} ({self.fingerprint}) and {theirs} ({other.fingerprint}) do not belong "
            f"together; tokenizers that differ: {'; '.join(differ)}. Tokenise again with the "
            f"tokenizers of the checkpoint, or train on this table in a run of its own (another "
            f"--out)"
        )
