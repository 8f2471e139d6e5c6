"""None of these: how little an image is like any class, and from where on it is new."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._base import FewShotClassifier
from skfewshot._left_out import novelty_of
from skfewshot._sklearn import warn_user
from skfewshot.inspection._model import (
    check_share,
    left_out,
    resolve,
    value_reached,
)


def novelty_score(model: Any, X: Any) -> NDArray:
    r"""Say how little each image is like any of the classes.

    For logits :math:`z` of :math:`C` classes the score is

    .. math::

        \frac{1}{2 C} \sum_c z_c - \max_c z_c

    Probabilities only compare classes, and one of them is always the most probable; how
    high its logit is says whether the image is like it at all.

    Parameters
    ----------
    model : estimator
        A fitted classifier with one label an image, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    X : array-like of shape (n_samples, ...)
        As `model` takes it: images for a pipeline with a featurizer.

    Returns
    -------
    ndarray of shape (n_samples,)
        The higher, the less like any class; of no unit. NaN for an image that could not
        be read.

    Raises
    ------
    TypeError
        If `model` is no classifier with one label an image.
    ValueError
        If the classifier would refuse the rows.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    See Also
    --------
    novelty_threshold : From where on an image is of none of the classes.
    RejectingClassifier : Says so in the place of a class.

    Notes
    -----
    The level of a logit is that of energy scores [1]_. Half of the mean is ours:
    without it an image of which all classes say little looks new, and with all of it
    one of something far off looks known. It was chosen on validation rows of DTD-47,
    Pets-25 and Caltech-69, with 2 to 34 of the classes known.

    References
    ----------
    .. [1] Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020,
       arXiv:2010.03759.

    Examples
    --------
    >>> from skfewshot import ZeroShotClassifier
    >>> from skfewshot.inspection import novelty_score
    >>> texts = {"cat": [1.0, 0.0, 0.0], "dog": [0.0, 1.0, 0.0]}
    >>> model = ZeroShotClassifier(texts, logit_scale=10.0).fit(None, ["cat", "dog"])
    >>> novelty_score(model, [[1.0, 0.0, 0.0], [0.6, 0.0, 0.8]]).tolist()
    [-7.5, -4.5]
    """
    classifier, X = resolve(model, X)
    return classifier._query_logits(X, novelty_of)


def novelty_threshold(model: Any, *, false_alarms: float = 0.05) -> float:
    """Find the novelty above which an image is of none of the classes.

    Parameters
    ----------
    model : estimator
        A fitted :class:`~skfewshot.CMMClassifier`,
        :class:`~skfewshot.GaussianDiscriminantClassifier` or
        :class:`~skfewshot.ProKeRClassifier` with ``store_left_out=True``, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    false_alarms : float, default=0.05
        Share of the images of the classes, above 0 and below 1, that may be above.

    Returns
    -------
    float
        To compare with :func:`novelty_score`.

    Raises
    ------
    TypeError
        If `model` is no classifier with one label an image.
    ValueError
        If it keeps no rows left out, or `false_alarms` is out of range.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Warns
    -----
    UserWarning
        If there are fewer images than ``1 / false_alarms - 1``. The threshold is the
        score of the newest of them then, and alarms may be more.

    Notes
    -----
    It is a quantile of the scores of the rows of the support that are left out. These
    have one image less of their class than new images will, so that there are a little
    fewer false alarms than asked, at one image a class far fewer: 1 % or none.

    Examples
    --------
    >>> import numpy as np
    >>> from skfewshot import CMMClassifier
    >>> from skfewshot.inspection import novelty_score, novelty_threshold
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 20)
    >>> directions = np.eye(20)
    >>> X = directions[y] + 0.2 * rng.normal(size=(40, 20))
    >>> model = CMMClassifier(directions[:2], store_left_out=True).fit(X, y)
    >>> scores = novelty_score(model, directions[:4])
    >>> (scores > novelty_threshold(model)).tolist()
    [False, False, True, True]
    """
    false_alarms = check_share("false_alarms", false_alarms)
    return _threshold(resolve(model).classifier, false_alarms)


def _threshold(classifier: FewShotClassifier, false_alarms: float) -> float:
    rows = left_out(classifier, "novelty_threshold")
    scores = classifier.left_out_novelty_[rows]
    share = classifier.support_shares_[rows]
    found = value_reached(scores, share, 1 - false_alarms)
    if found is not None:
        return found
    warn_user(
        f"false_alarms={false_alarms} takes {np.ceil(1 / false_alarms - 1):.0f} "
        f"images, and the support has {share.sum():.0f}: alarms may be more."
    )
    return float(scores.max())
