"""The methods that the benchmarks compare, each with the one setting that it runs with.

Nothing runs here; ``accuracy.py``, ``texts.py``, ``shift.py`` and ``speed.py`` read it.
"""

import importlib
from contextlib import contextmanager

from sklearn.linear_model import LogisticRegression

#: Method: the name of its class in ``skfewshot``, and what differs from the defaults.
PEERS = {
    "zero-shot": ("ZeroShotClassifier", {}),
    # The regularisation in CLIP's own instructions, and the same for rows of length 1
    # in place of CLIP's 10.
    "linear probe": ("LogisticRegression", {"C": 0.316, "max_iter": 1000}),
    "linear probe, C 31.6": ("LogisticRegression", {"C": 31.6, "max_iter": 1000}),
    "Tip-Adapter": ("TipAdapterClassifier", {}),
    "Tip-Adapter-F": ("TipAdapterClassifier", {"train_keys": True}),
    "GDA": ("GaussianDiscriminantClassifier", {}),
    "GDA, alpha 1": ("GaussianDiscriminantClassifier", {"alpha": 1.0}),
    "LP++": ("LPPlusPlusClassifier", {}),
    "CLAP": ("CLAPClassifier", {}),
    "TaskRes": ("TaskResClassifier", {}),
    "ProKeR": ("ProKeRClassifier", {}),
}
OURS = "CMM"
#: Variants of CMM, name: parameters that differ from its defaults. They are no peers.
ABLATIONS = {
    "no whitening": {},
    "weight not found": {"alpha": 0.2},
    "no intercepts": {},
    "no map of texts": {},
    "text penalty 3": {},
    "all texts trusted": {},
    "nothing stands in": {},
    "all labels trusted": {},
    "near copies kept": {},
    "as published": {"solver": "paper"},
    "as published, no triplet": {"solver": "paper", "triplet_weight": 0.0},
    "as published, map alone": {"solver": "paper"},
    "as published, texts alone": {"solver": "paper"},
}
ABLATIONS = {f"CMM, {name}": settings for name, settings in ABLATIONS.items()}
#: What has no parameter is taken out by a constant: module, name, value.
CONSTANTS = {
    "CMM, no whitening": (("cmm._gaussian", "_SPHERE_ROWS", 1e12),),
    "CMM, no intercepts": (("cmm._scales", "_INTERCEPT_SPREAD", 1e-6),),
    "CMM, no map of texts": (("cmm._gaussian", "_MAP_VARIANCE", 0.0),),
    "CMM, text penalty 3": (("cmm._solver", "_TEXT_PENALTIES", (3.0,)),),
    "CMM, all texts trusted": (
        ("cmm._scales", "_WRONG_TEXT", -30.0),
        ("cmm._scales", "_WRONG_TEXT_SPREAD", 0.0),
    ),
    "CMM, nothing stands in": (("cmm._labelled", "_SLOPES", (0.0, 0.0)),),
    "CMM, all labels trusted": (("cmm._solver", "_DOUBT", 2.0),),
    "CMM, near copies kept": (("_copies", "_NEAR_COPY", 0.0),),
    "CMM, as published, map alone": (("cmm._paper", "_TRAINED", ("map",)),),
    "CMM, as published, texts alone": (("cmm._paper", "_TRAINED", ("text",)),),
}
METHODS = {
    **PEERS,
    OURS: ("CMMClassifier", {}),
    **{name: ("CMMClassifier", settings) for name, settings in ABLATIONS.items()},
}
#: Rows of ``texts.py`` and ``shift.py`` alone: what texts give.
WITHOUT_TEXT = "CMM without text"
TROUBLE_ONLY = {WITHOUT_TEXT: ("CMMClassifier", {})}
#: Methods that texts make no difference to.
FREE_OF_TEXT = (WITHOUT_TEXT, "linear probe", "linear probe, C 31.6")
#: Timed, but not in the tables of accuracy: scikit-learn's defaults, until converged.
LOGISTIC = "logistic regression"
SPEED_ONLY = {LOGISTIC: ("LogisticRegression", {"max_iter": 10_000})}
#: The peers that are trained step by step, whose fit times CMM is held against.
TRAINED = ("Tip-Adapter-F", "LP++", "CLAP", "TaskRes")


@contextmanager
def as_in(method):
    """Change the constants that a method takes out, for as long as this lasts."""
    changed = []
    try:
        for module, name, value in CONSTANTS.get(method, ()):
            module = importlib.import_module(f"skfewshot.{module}")
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def find_class(name):
    """Return the class of a method; one that does not exist is an error."""
    if name == "LogisticRegression":
        return LogisticRegression
    import skfewshot

    return getattr(skfewshot, name)


def settings_of(method):
    """Return the parameters in which a method differs from the defaults."""
    return (METHODS | SPEED_ONLY | TROUBLE_ONLY)[method][1]


def make(method, text, seed=0):
    """Return an unfitted estimator.

    Parameters
    ----------
    method : str
        A key of `METHODS`, `SPEED_ONLY` or `TROUBLE_ONLY`.
    text : ndarray of shape (n_classes, n_features) or None
        The text features; None makes class means stand in for them.
    seed : int
        For the methods that draw random numbers.
    """
    name, settings = (METHODS | SPEED_ONLY | TROUBLE_ONLY)[method]
    cls = find_class(name)
    text = None if method == WITHOUT_TEXT else text
    estimator = cls(**settings) if name == "LogisticRegression" else cls(text)
    estimator.set_params(**settings)
    if "random_state" in estimator.get_params(deep=False):
        estimator.set_params(random_state=seed)
    return estimator
