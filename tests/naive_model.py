"""The transformer once more, by loops in float64 numpy: what tests compare with."""

import math
from typing import Any

import numpy as np

from nano4m.modalities import Modality

Weights = dict[str, np.ndarray]


def sincos(position: float, dim: int) -> np.ndarray:
    """All sines, then all cosines of position * 10000^(-k / (dim / 2))."""
    angles = [position * 10000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def turn(x: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    """Rotate a head: as many pairs (k, k + K / 2) for each coordinate, as complex numbers."""
    half, each = len(x) // 2, len(x) // 2 // len(place)
    turned = np.empty(len(x))
    for pair in range(half):
        angle = place[pair // each] * 10000 ** (-(pair % each) / each)
        z = complex(x[pair], x[pair + half]) * complex(math.cos(angle), math.sin(angle))
        turned[pair], turned[pair + half] = z.real, z.imag
    return turned


class NaiveModel:
    """One sample at a time; weights by the names of the state dict of the model in test."""

    def __init__(self, config: Any, modalities: tuple[Modality, ...], weights: Weights) -> None:
        self.config, self.modalities, self.weights = config, modalities, weights

    def place(self, modality: int, coords: tuple[int, int]) -> tuple[int, ...]:
        """Coordinates, or the running index in the modality."""
        if self.config.positions.endswith("2d"):
            return coords
        entry = self.modalities[modality]
        if entry.layout == "codebooks" and self.config.codebook_order != "interleave":
            slots = [(t, q) for t in range(entry.shape[0]) for q in range(entry.shape[1])]
            late = self.config.codebook_order == "delay"
            slots.sort(key=lambda at: (sum(at), at[1]) if late else (at[1], at[0]))
            return (slots.index(coords),)
        return (coords[0] * (1 if entry.layout == "text" else entry.shape[1]) + coords[1],)

    def added(self, place: tuple[int, ...]) -> np.ndarray:
        """As many channels for each coordinate."""
        return np.concatenate([sincos(p, self.config.dim // len(place)) for p in place])

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """LayerNorm with a gain."""
        centred = x - x.mean()
        return centred / math.sqrt((centred**2).mean() + 1e-6) * self.weights[f"{name}.weight"]

    def attention(self, name: str, queries: list, keys: list, values: list, at: tuple) -> list:
        """Attention by loops over queries, heads and keys; ``at`` are places of both sides."""
        width = self.config.head_dim
        gathered = []
        for q, here in zip(queries, at[0], strict=True):
            heads = []
            for start in range(0, len(q), width):
                span = slice(start, start + width)
                query = self.head(f"{name}.norm_q", q[span], here)
                scores = [
                    query @ self.head(f"{name}.norm_k", k[span], there) / math.sqrt(width)
                    for k, there in zip(keys, at[1], strict=True)
                ]
                share = np.exp(np.array(scores) - max(scores))
                share /= share.sum()
                heads.append(sum(s * v[span] for s, v in zip(share, values, strict=True)))
            gathered.append(self.weights[f"{name}.out.weight"] @ np.concatenate(heads))
        return gathered

    def head(self, norm: str, x: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
        """One head of a query or key."""
        x = self.norm(norm, x) if self.config.qk_norm else x
        return turn(x, place) if self.config.positions.startswith("rope") else x

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        """GELU by the error function, or SwiGLU."""
        up = self.weights[f"{name}.up.weight"] @ x
        if self.config.mlp == "swiglu":
            gate, value = np.split(up, 2)
            hidden = gate / (1 + np.exp(-gate)) * value
        else:
            hidden = np.array([u * 0.5 * (1 + math.erf(u / math.sqrt(2))) for u in up])
        return self.weights[f"{name}.down.weight"] @ hidden

    def own(self, name: str, xs: list, places: list) -> list:
        """Self-attention with its residual."""
        qkv = self.weights[f"{name}.attention.qkv.weight"]
        parts = [np.split(qkv @ self.norm(f"{name}.norm1", x), 3) for x in xs]
        q, k, v = map(list, zip(*parts, strict=True))
        seen = self.attention(f"{name}.attention", q, k, v, (places, places))
        return [x + y for x, y in zip(xs, seen, strict=True)]

    def last(self, name: str, xs: list) -> list:
        """MLP with its residual."""
        return [x + self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x)) for x in xs]

    def states(self, given: list[tuple], asked: list[tuple]) -> np.ndarray:
        """Decoder states (M, D) from given (id, modality, coords) and asked (modality, coords)."""
        w, config = self.weights, self.config
        sizes = [m.vocab_size for m in self.modalities]
        xs, sources = [], []
        if config.register_token:
            xs, sources = [w["register"].reshape(-1)], [self.place(0, (0, 0))]
        for token, modality, coords in given:
            start = 0 if config.tables == "shared" else sum(sizes[:modality])
            x = w["table.weight"][start + token] + w["encoder_modality.weight"][modality]
            place = self.place(modality, coords)
            rotary = config.positions.startswith("rope")
            xs.append(x if rotary else x + self.added(place))
            sources.append(place)
        for n in range(config.encoder_depth):
            xs = self.last(f"encoder.{n}", self.own(f"encoder.{n}", xs, sources))
        context = [w["context.weight"] @ self.norm("encoder_norm", x) for x in xs]
        if config.context == "positioned":
            context = [
                c + w["context.bias"] + self.added(p) for c, p in zip(context, sources, strict=True)
            ]
        targets = [self.place(*query) for query in asked]
        ys = [
            w["decoder_modality.weight"][modality] + self.added(place)
            for (modality, _), place in zip(asked, targets, strict=True)
        ]
        for n in range(config.decoder_depth):
            name = f"decoder.{n}"
            ys = self.own(name, ys, targets)
            queries = [w[f"{name}.cross.q.weight"] @ self.norm(f"{name}.norm_query", y) for y in ys]
            pairs = [
                np.split(w[f"{name}.cross.kv.weight"] @ self.norm(f"{name}.norm_context", c), 2)
                for c in context
            ]
            keys, values = map(list, zip(*pairs, strict=True))
            seen = self.attention(f"{name}.cross", queries, keys, values, (targets, sources))
            ys = self.last(name, [y + s for y, s in zip(ys, seen, strict=True)])
        return np.stack([self.norm("decoder_norm", y) for y in ys])

    def logits(self, state: np.ndarray, modality: int) -> np.ndarray:
        """Scores over the ids of a modality from one state."""
        sizes = [m.vocab_size for m in self.modalities]
        shared = self.config.tables == "shared"
        start = 0 if shared or not self.config.tied else sum(sizes[:modality])
        head = "table" if self.config.tied else "heads.0" if shared else f"heads.{modality}"
        scores = self.weights[f"{head}.weight"][start : start + sizes[modality]] @ state
        if self.config.tied:
            scores = scores / math.sqrt(len(state))
        cap = self.config.logit_soft_cap
        return cap * np.tanh(scores / cap) if cap else scores
