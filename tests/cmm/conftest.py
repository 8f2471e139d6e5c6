"""Small supports in tensors, of unequal classes and weights."""

from collections.abc import Callable

import numpy as np
import pytest

from skfewshot._support import Support


@pytest.fixture(scope="session")
def make_support(unit: Callable) -> Callable:
    """Return the function that draws a support of unequal classes and weights.

    ``make_support(seed=0, n_classes=4, n_rows=11, d=6)`` has a row of each class but
    those in ``without``, some have only that one, weights from 0.3 to 3, and texts that
    know something.
    """

    def make(
        seed=0,
        n_classes=4,
        n_rows=11,
        d=6,
        *,
        text_seen=False,
        logit_scale=30.0,
        without=(),
        dtype=np.float64,
    ) -> Support:
        rng = np.random.default_rng(seed)
        concepts = rng.normal(size=(n_classes, d))
        spare = rng.integers(0, n_classes, n_rows - n_classes)
        y = rng.permutation(np.concatenate([np.arange(n_classes), spare]))
        noise = rng.normal(size=(n_rows, d))
        F = unit(rng.normal(size=d) + concepts[y] + 0.7 * noise)
        text_noise = 0.5 * rng.normal(size=(n_classes, d))
        text = unit(2 * rng.normal(size=d) + concepts + text_noise)
        weight = rng.uniform(0.3, 3.0, n_rows)
        kept = ~np.isin(y, without)
        return Support(
            features=F[kept].astype(dtype),
            y=y[kept],
            weight=weight[kept].astype(dtype),
            copy=np.ones(kept.sum(), dtype),
            text=text.astype(dtype),
            unlabelled=np.empty((0, d), dtype),
            unlabelled_weight=np.empty(0, dtype),
            rows=np.arange(kept.sum()),
            seen=np.arange(n_classes),
            text_seen=text_seen,
            logit_scale=logit_scale,
        ).on_device("cpu")

    return make
