"""What GDA and ProKeR keep of rows left out is what a fit without the row says."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import GaussianDiscriminantClassifier, ProKeRClassifier

#: With settings that a row has no say in.
FIXED = {
    "gda": GaussianDiscriminantClassifier(alpha=0.4, store_left_out=True),
    "proker": ProKeRClassifier(
        beta=3.0, regularization=0.3, amplitude=20.0, store_left_out=True
    ),
}
fixed = pytest.mark.parametrize("model", FIXED.values(), ids=FIXED)


def refits(model, X, y, weight, text):
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        fitted = type(model)(**model.get_params() | {"text_features": text})
        yield i, fitted.fit(X[kept], y[kept], weight[kept])


@fixed
@pytest.mark.parametrize("has_text", [True, False])
def test_rows_left_out_are_refits_without_them(model, has_text, task, weight):
    X, y, text, _ = task
    text = text if has_text else None
    model = model.set_params(text_features=text).fit(X, y, weight)
    for i, refit in refits(model, X, y, weight, text):
        logits = refit.decision_function(X[i : i + 1])[0]
        expected = 0.5 * logits.mean() - logits.max()
        assert_allclose(model.left_out_novelty_[i], expected, atol=1e-8)
        proba = refit.predict_proba(X[i : i + 1])[0]
        assert_allclose(model.left_out_proba_[i], proba, atol=1e-8)
    assert_array_equal(model.support_codes_, y)
    assert_allclose(model.support_shares_, weight)
    assert_allclose(model.support_features_, X)


@fixed
def test_a_row_alone_leaves_its_class_to_its_text(model, task):
    X, y, text, _ = task
    kept = np.flatnonzero((y > 0) | (np.arange(len(y)) == 0))
    weights = {0: 0.0, 1: 1.0, 2: 1.0, 3: 1.0}
    model = model.set_params(text_features=text).fit(X[kept], y[kept])
    rest = type(model)(**model.get_params() | {"class_weight": weights})
    expected = rest.fit(X[kept], y[kept]).predict_proba(X[:1])[0]
    assert_allclose(model.left_out_proba_[0], expected, atol=1e-8)


@pytest.mark.parametrize("model", [GaussianDiscriminantClassifier, ProKeRClassifier])
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("has_text", [True, False])
def test_found_settings_change_nothing_but_what_is_kept(
    model, shots, has_text, make_task
):
    X, y, text = make_task(shots=shots)
    text = text if has_text else None
    plain = model(text).fit(X, y)
    keeping = model(text, store_left_out=True).fit(X, y)
    assert_array_equal(plain.decision_function(X), keeping.decision_function(X))
    assert not hasattr(plain, "left_out_proba_")
    assert_allclose(keeping.left_out_proba_.sum(axis=1), 1)
    # The support looks surer than rows left out are.
    own = np.arange(len(y)), y
    assert keeping.left_out_proba_[own].mean() < plain.predict_proba(X)[own].mean()


@pytest.mark.parametrize("model", [GaussianDiscriminantClassifier, ProKeRClassifier])
def test_copies_leave_together_and_rows_of_no_weight_have_nothing(model, make_task):
    X, y, text = make_task(shots=4)
    weight = np.ones(len(y))
    weight[5], weight[9] = 2.0, 0.0
    model = model(text, store_left_out=True)
    doubled = model.fit(X, y, weight).left_out_proba_
    assert np.isnan(doubled[9]).all() and np.isnan(model.left_out_novelty_[9])
    assert model.support_codes_[9] == -1 and model.support_shares_[9] == 0
    weight[5] = 1.0
    copied = model.fit(np.vstack([X, X[5]]), np.append(y, y[5]), np.append(weight, 1.0))
    assert_allclose(copied.left_out_proba_[:-1], doubled, atol=1e-10)
    assert_array_equal(copied.left_out_proba_[-1], copied.left_out_proba_[5])
    assert_array_equal(copied.support_shares_[[5, -1]], [1.0, 1.0])
