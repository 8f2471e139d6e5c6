"""The methods that the benchmarks compare, each with the one setting that it runs with.

Nothing runs here; ``accuracy.py`` and ``speed.py`` read it.
"""

from sklearn.linear_model import LogisticRegression

#: Method: the name of its class in ``skfewshot``, and what differs from the defaults.
PEERS = {
    "zero-shot": ("ZeroShotClassifier", {}),
    # The regularisation in CLIP's own instructions.
    "linear probe": ("LogisticRegression", {"C": 0.316, "max_iter": 1000}),
    "Tip-Adapter": ("TipAdapterClassifier", {}),
    "Tip-Adapter-F": ("TipAdapterClassifier", {"train_keys": True}),
    "GDA": ("GaussianDiscriminantClassifier", {}),
    "LP++": ("LPPlusPlusClassifier", {}),
    "CLAP": ("CLAPClassifier", {}),
    "TaskRes": ("TaskResClassifier", {}),
    "ProKeR": ("ProKeRClassifier", {}),
}
OURS = "CMM"
#: Variants of CMM, name: parameters that differ from its defaults. They are no peers.
ABLATIONS = {
    "CMM, no triplet": {"triplet_weight": 0.0},
    "CMM, text only": {"map_penalty": float("inf")},
}
METHODS = {
    **PEERS,
    OURS: ("CMMClassifier", {}),
    **{name: ("CMMClassifier", settings) for name, settings in ABLATIONS.items()},
}
#: Timed, but not in the tables of accuracy: scikit-learn's defaults, until converged.
LOGISTIC = "logistic regression"
SPEED_ONLY = {LOGISTIC: ("LogisticRegression", {"max_iter": 10_000})}
#: The peers that are trained step by step, whose fit times CMM is held against.
TRAINED = ("Tip-Adapter-F", "LP++", "CLAP", "TaskRes")


def find_class(name):
    """Return the class of a method; one that does not exist is an error."""
    if name == "LogisticRegression":
        return LogisticRegression
    import skfewshot

    return getattr(skfewshot, name)


def make(method, text, seed=0):
    """Return an unfitted estimator.

    Parameters
    ----------
    method : str
        A key of `METHODS` or `SPEED_ONLY`.
    text : ndarray of shape (n_classes, n_features) or None
        The text features; None makes class means stand in for them.
    seed : int
        For the methods that draw random numbers.
    """
    name, settings = (METHODS | SPEED_ONLY)[method]
    cls = find_class(name)
    estimator = cls(**settings) if name == "LogisticRegression" else cls(text)
    estimator.set_params(**settings)
    if "random_state" in estimator.get_params(deep=False):
        estimator.set_params(random_state=seed)
    return estimator
