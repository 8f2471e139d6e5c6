"""Fit a tiny model of every kind and save it: ``python save_models.py FOLDER``."""

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    MultiLabelPrototypePrior,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.datasets import make_object_images

KINDS = ["plain heart", "spotted ring", "striped star"]
WIDTH, N_LABELS = 8, 5
METHODS = (
    *("predict", "predict_proba", "decision_function", "transform", "explain"),
    *("map_labels", "text_shares"),
)


def make_rows(n=18, seed=0, n_classes=3):
    """Draw rows and their class indices."""
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(n_classes, WIDTH))
    y = np.arange(n) % n_classes
    X = 0.5 + concepts[y] + 0.8 * rng.normal(size=(n, WIDTH))
    return X.astype(np.float32), y


def make_tokens(n=15, seed=0):
    """Draw tokens, one more than three an image, and indicators of labels."""
    rng = np.random.default_rng(seed)
    concepts = np.random.default_rng(7).normal(size=(N_LABELS, WIDTH))
    Y = np.zeros((n, N_LABELS), dtype=int)
    Y[np.arange(n), np.arange(n) % N_LABELS] = 1
    Y[np.arange(n), (np.arange(n) + 1 + np.arange(n) // N_LABELS) % N_LABELS] = 1
    T = 0.5 + rng.normal(size=(n, 4, WIDTH))
    for image, row in enumerate(Y):
        T[image, 1:3] += 2 * concepts[row > 0]
    return T.astype(np.float32), Y


def fit_models():
    """Return the fitted estimators by name, each with what it is to predict from."""
    warnings.simplefilter("ignore")
    X, y = make_rows()
    few, two = make_rows(n_classes=2)
    names = np.array(KINDS)[y]
    rng = np.random.default_rng(1)
    text = rng.normal(size=(3, WIDTH)).astype(np.float32)
    by_name = dict(zip(KINDS, text, strict=True))
    T, Y = make_tokens()
    labels = rng.normal(size=(N_LABELS, WIDTH)).astype(np.float32)
    prior = MultiLabelPrototypePrior(
        n_episodes=2, n_way=2, interaction=("gate",), random_state=0
    ).fit(T, Y, labels)
    images, kinds = make_object_images(2, kinds=KINDS, random_state=0, return_X_y=True)
    clip = CLIPFeaturizer("tiny")
    embedded = clip.fit_transform(images)
    on_rows = {
        "cmm": CMMClassifier(by_name).fit(X, names),
        "cmm-paper": CMMClassifier(text, solver="paper").fit(X, y),
        "tip-adapter": TipAdapterClassifier(by_name).fit(X, names),
        "tip-adapter-f": TipAdapterClassifier(
            text, train_keys=True, max_iter=5, random_state=0
        ).fit(X, y),
        "discriminant": GaussianDiscriminantClassifier(text).fit(X, y),
        "discriminant-image": GaussianDiscriminantClassifier(None).fit(X, names),
        "lp-plus-plus": LPPlusPlusClassifier(by_name, max_iter=20).fit(X, names),
        "clap": CLAPClassifier(text, max_iter=20).fit(X, y),
        "task-res": TaskResClassifier(
            text, max_iter=5, random_state=np.random.RandomState(0)
        ).fit(X, y),
        "proker": ProKeRClassifier(by_name).fit(X, names),
        "proker-image": ProKeRClassifier(None).fit(few, two),
        "multi-label-rows": MultiLabelPrototypeClassifier(by_name).fit(X, names),
    }
    on_tokens = {
        "multi-label": MultiLabelPrototypeClassifier(labels).fit(T, Y),
        "multi-label-prior": MultiLabelPrototypeClassifier(
            labels, prior=prior, query_scoring="both", threshold="cardinality"
        ).fit(T, Y),
    }
    rows, tokens = make_rows(seed=1)[0], make_tokens(seed=1)[0]
    return {
        **{name: (model, rows) for name, model in on_rows.items()},
        **{name: (model, tokens) for name, model in on_tokens.items()},
        "zero-shot": (ZeroShotClassifier().fit(embedded, kinds), np.asarray(embedded)),
        "featurizer": (clip, images),
        "prior": (prior, labels),
    }


def predict_all(model, X):
    """Return what a model says of some data, by method."""
    return {
        method: np.asarray(getattr(model, method)(X))
        for method in METHODS
        if hasattr(model, method)
    }


def save_models(models, folder):
    """Save each model together with its data and what it predicts."""
    folder.mkdir(parents=True)
    for name, (model, X) in models.items():
        predicted = predict_all(model, X)
        with open(folder / f"{name}.pkl", "wb") as file:
            # The featurizer's images are made anew.
            X = None if name == "featurizer" else X
            pickle.dump((model, X, predicted), file, protocol=4)


if __name__ == "__main__":
    save_models(fit_models(), Path(sys.argv[1]))
