"""Classifier of texts by their words, for captions of a few templates or of free wording.

TF-IDF of single words (with pairs of words it was worse) and complement naive Bayes (Rennie et al.
2003) or logistic regression: the first is ahead with tens of texts, the second with hundreds. Which
is taken is decided by accuracy on held-out train texts, equal texts always on one side.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import Pipeline, make_pipeline

UNKNOWN = -1
"""Prediction for a text of which no train text has a word."""

FOLDS = 3
"""Parts of the distinct train texts; each is held out once."""

MOST_TEXTS = 3000
"""Most train texts on which the model is chosen."""


def _models() -> list[Pipeline]:
    models = (
        ComplementNB(alpha=0.1),
        LogisticRegression(C=10, class_weight="balanced", max_iter=300),
    )
    words = [TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True) for _ in models]
    return [make_pipeline(*parts) for parts in zip(words, models, strict=True)]


def _better_model(texts: np.ndarray, labels: np.ndarray, seed: int) -> Pipeline:
    """Return the model with the higher accuracy on held-out texts, the first if they are equal."""
    rng, models = np.random.default_rng(seed), _models()
    rows = rng.permutation(len(texts))[:MOST_TEXTS]
    texts, labels = texts[rows], labels[rows]
    _, which = np.unique(texts.astype(str), return_inverse=True)
    fold = rng.permutation(which.max() + 1)[which] % FOLDS
    correct = np.zeros(len(models))
    for own in range(FOLDS):
        train, held_out = fold != own, fold == own
        if not held_out.any() or len(np.unique(labels[train])) < 2:
            continue
        for i, model in enumerate(models):
            found = model.fit(texts[train], labels[train]).predict(texts[held_out])
            correct[i] += (found == labels[held_out]).sum()
    return models[int(correct.argmax())]


class WordClassifier:
    """Predicts the class of a text from its words.

    Args:
        texts: Of the train split.
        labels: int (n,), their classes.
        seed: Of the choice of the model; the models themselves draw nothing.
    """

    def __init__(self, texts: Sequence[str], labels: np.ndarray, seed: int) -> None:
        analyze = TfidfVectorizer(token_pattern=r"\w+").build_analyzer()
        self.words = {word for text in texts for word in analyze(text)}
        self.analyze = analyze
        known = np.array([bool(analyze(text)) for text in texts])
        some, own = np.array(texts, dtype=object)[known], np.asarray(labels)[known]
        self.only = int(own[0]) if len(np.unique(own)) == 1 else UNKNOWN
        self.model = None
        if len(np.unique(own)) > 1:
            self.model = _better_model(some, own, seed).fit(some, own)

    def predict(self, media: Sequence[str]) -> np.ndarray:
        """Return the class of each text, int64 (n,); UNKNOWN for one without a known word."""
        known = np.array([not self.words.isdisjoint(self.analyze(text)) for text in media], bool)
        found = np.full(len(media), UNKNOWN, dtype=np.int64)
        some = np.array(media, dtype=object)[known]
        if len(some):
            found[known] = self.only if self.model is None else self.model.predict(some)
        return found
