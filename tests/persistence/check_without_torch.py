"""Check that saved models predict without torch: ``check_without_torch.py FOLDER``.

FOLDER is what ``save_models.py`` wrote, with torch. ``.ci/without_torch`` runs this
where nothing is installed but scikit-learn, skops and this package alone.
"""

import importlib
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import skops.io
from sklearn.base import clone

ABSENT = ("torch", "torchvision", "open_clip", "safetensors", "PIL", "matplotlib")
#: These are fitted by NumPy and SciPy alone.
WITHOUT_SOLVER = {
    *("discriminant", "discriminant-image", "multi-label", "multi-label-rows"),
    *("proker", "proker-image", "tip-adapter", "zero-shot"),
}


def raises_for_torch(function, *args):
    """Call what needs torch, and check that it says so."""
    try:
        function(*args)
    except ImportError as error:
        assert "needs torch" in str(error), error
        assert "pip install" in str(error), error
    else:
        raise AssertionError(f"{function} did without torch")


def check_predictions(model, X, expected):
    """Check what all methods of a model say, to the last digits."""
    for method, values in expected.items():
        found = getattr(model, method)(X)
        if values.dtype.kind == "f":
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, values)
    if "predict" in expected:
        assert model.score(X, expected["predict"]) == 1


def check_model(name, model, X, expected):
    """Check all that is to work with a fitted model, and what is to be refused."""
    clone(model)
    assert type(model).__name__ in repr(model)
    assert "readthedocs" in model._repr_html_()
    if name == "featurizer":
        raises_for_torch(model.transform, [np.zeros((8, 8, 3), np.uint8)])
        raises_for_torch(model.fit, [np.zeros((8, 8, 3), np.uint8)])
        raises_for_torch(model.encode_classes, ["cat"])
        return
    check_predictions(model, X, expected)
    trusted = importlib.import_module("skfewshot.persistence").TRUSTED_TYPES
    saved = skops.io.dumps(model)
    check_predictions(skops.io.loads(saved, trusted=trusted), X, expected)
    if name == "prior":
        indicators = (np.arange(12)[:, None] + np.arange(5)) % 3 == 0
        raises_for_torch(type(model)().fit, np.tile(X[:4], (3, 1)), indicators, X)
        return
    fresh = type(model)(None, **({"train_keys": True} if name[-2:] == "-f" else {}))
    if name == "multi-label-prior":
        fresh.set_params(prior=model.prior, label_features=model.label_features)
        raises_for_torch(fresh.fit, X, expected["predict"])
    elif name in WITHOUT_SOLVER:
        fresh.fit(X, expected["predict"]).predict(X)
    else:
        raises_for_torch(fresh.fit, X, expected["predict"])


def main(folder):
    """Check everything."""
    for name in ABSENT:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise AssertionError(f"{name} is installed here")
    package = importlib.import_module("skfewshot")
    modules = ("clip", "cmm", "display", "export", "metrics")
    for module in (*modules, "model_selection", "multilabel", "peers", "persistence"):
        importlib.import_module(f"skfewshot.{module}")
    for name in package.__all__:
        estimator = getattr(package, name)
        assert not isinstance(estimator, type) or repr(clone(estimator()))
    files = sorted(Path(folder).glob("*.pkl"))
    for file in files:
        check_model(file.stem, *pickle.loads(file.read_bytes()))
    print(f"{len(files)} models predict without torch")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1])
