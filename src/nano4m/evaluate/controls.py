"""Controls with shuffled inputs, each with the score that it should reach.

A control should reach what the same answers reach if they are independent of the truth, which is
not chance: a model that always answers the commonest class is right as often as that occurs.
"""

import numpy as np

from nano4m.evaluate.intervals import share_interval
from nano4m.evaluate.probe_results import Control


def control(hits: np.ndarray, clusters: np.ndarray, expected: np.ndarray | float) -> Control:
    """Return a control of outcomes in [0, 1], (n,), of clips in clusters, int (n,).

    ``expected`` is the value that it should reach, or that of each clip.
    """
    low, high, *_ = share_interval(hits, clusters)
    return Control(
        value=float(np.mean(hits)),
        low=low,
        high=high,
        n=len(hits),
        expected=float(np.mean(expected)),
    )


def shuffled_classes(
    predicted: np.ndarray, labels: np.ndarray, others: np.ndarray, clusters: np.ndarray
) -> Control:
    """Return the control of a classification: what each clip's inputs say of another clip.

    Args:
        predicted: int (n,), the class that is predicted from each clip's inputs.
        labels: int (n,), the true classes.
        others: int (n,), the clip for which each prediction is taken; none is its own.
        clusters: int (n,), of the clips.
    """
    _, label_n = np.unique(np.concatenate([predicted, labels]), return_inverse=True)
    guess_n, true_n = label_n[: len(labels)], label_n[len(labels) :]
    counts = np.bincount(true_n, minlength=label_n.max() + 1)
    # Of the other n - 1 clips, those of the predicted class.
    alike = counts[guess_n] - (guess_n == true_n)
    return control(predicted == labels[others], clusters, alike / (len(labels) - 1))
