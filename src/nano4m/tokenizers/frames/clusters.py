"""k-means over frames: which vectors share an id."""

import warnings

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from nano4m.errors import UserError

MOST_VECTORS = 100_000
"""Most vectors that centroids are fitted on."""


class Clusters:
    """Centroids of vectors; the id of a vector is that of its nearest centroid.

    The vectors are clustered as they are, as HuBERT's are: one deviation for each of their numbers
    would give the last cepstra, which are mostly noise, the weight of the first.

    Attributes:
        centroids: float32 (vocab, C).
    """

    def __init__(self, centroids: Tensor) -> None:
        self.centroids = centroids

    @classmethod
    def fit(cls, vectors_NC: Tensor, vocab: int, seed: int) -> "Clusters":
        """Return the centroids of vectors (N, C), on the CPU; the same seed gives the same ones.

        Raises:
            UserError: Fewer vectors than clusters.
        """
        if len(vectors_NC) < vocab:
            raise UserError(
                f"{len(vectors_NC)} frames of train sounds cannot make {vocab} clusters; take a "
                f"smaller vocab, a smaller hop, or more clips"
            )
        rows = torch.randperm(len(vectors_NC), generator=torch.Generator().manual_seed(seed))
        own = vectors_NC[rows[:MOST_VECTORS].to(vectors_NC.device)].cpu().float().numpy()
        # Sums of several threads come in another order: centroids would depend on their number.
        with threadpool_limits(1), warnings.catch_warnings():
            # Of sounds that are all alike there are fewer different vectors than clusters.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = MiniBatchKMeans(
                vocab, n_init=1, batch_size=4096, max_iter=60, max_no_improvement=20,
                reassignment_ratio=0.005, random_state=np.random.RandomState(seed),
            ).fit(own)  # fmt: skip
        return cls(torch.from_numpy(found.cluster_centers_.astype(np.float32)))

    def to(self, device: torch.device | str) -> "Clusters":
        """Move the centroids to a device."""
        self.centroids = self.centroids.to(device)
        return self

    def ids(self, vectors: Tensor) -> Tensor:
        """Return the ids, int64 (...), of vectors (..., C)."""
        # The square of a vector itself is the same for all centroids.
        products = vectors.float() @ self.centroids.T
        return (self.centroids.square().sum(1) / 2 - products).argmin(-1)


def principal_axes(vectors_NC: Tensor, width: int) -> Tensor:
    """Return vectors (N, width) on their first principal axes, zeros where there are fewer."""
    x = vectors_NC - vectors_NC.mean(0)
    axes = torch.linalg.svd(x.double(), full_matrices=False)[2][:width].float()
    # The sign of an axis is free; its largest entry is positive, whatever the library returns.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    projected = x @ (axes * largest.sign()).T
    return torch.nn.functional.pad(projected, (0, width - projected.shape[1]))
