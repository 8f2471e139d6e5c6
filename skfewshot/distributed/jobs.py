"""What an actor computes: a job holds one model and turns tables into columns."""

import warnings
from contextlib import contextmanager

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skfewshot.clip.featurizer import CLIPFeaturizer
from skfewshot.clip.images import ImageReadError
from skfewshot.distributed.columns import (
    holds_floats,
    show,
    to_array,
    to_column,
    to_images,
    with_nulls,
)
from skfewshot.distributed.reading import EMBEDDING

#: The methods of an estimator that predict, and the columns of what they return.
OUTPUTS = {
    "predict": "prediction",
    "predict_proba": "probability",
    "predict_log_proba": "log_probability",
    "decision_function": "decision",
}


class EmbedJob:
    """Images to embeddings.

    Parameters
    ----------
    featurizer : CLIPFeaturizer
    image_column, id_column : str
    has_gpu : bool, default=False
        Whether Ray gives actors a GPU, or part of one.
    """

    output_column = EMBEDDING

    def __init__(self, featurizer, image_column, id_column, has_gpu=False):
        # A copy, for a data frame knows no encoder, and callbacks stay with the driver.
        self.featurizer = clone(featurizer).set_output(transform="default")
        self.featurizer.set_params(output_type="numpy")
        self.featurizer.__dict__.pop("_skl_callbacks", None)
        self.input_column = image_column
        self.id_column = id_column
        self.has_gpu = has_gpu
        self.encoder = None

    def settings(self):
        """Return what decides the numbers, as plain data, next to the encoder."""
        params = self.featurizer.get_params()
        names = ["output", "precision"]
        if params["precision"] == "auto":  # two runs may find different devices
            on_gpu = self.has_gpu or str(params["device"]).startswith("cuda")
            params["precision"] = "fp16" if on_gpu else "fp32"
        if params["output"] == "tokens":
            names.append("dense_mode")
        return {"task": "embed", **{name: params[name] for name in names}}

    def load(self):
        """Load the model and return its identity; refuse another than is wanted."""
        loaded = _load(self.featurizer, self.has_gpu).identity
        if self.encoder is not None and loaded != self.encoder:
            raise ValueError(
                f"This machine loads {loaded}, but the run embeds with {self.encoder}: "
                "the weights differ between machines, or from those that the "
                "featurizer was fitted with."
            )
        return loaded

    def compute(self, table):
        """Return the column of embeddings, and which rows could not be read."""
        images = to_images(table[self.input_column])
        with warnings.catch_warnings(), naming_ids(table, self.id_column):
            # It knows rows of the batch alone; the driver warns with ids at the end.
            warnings.filterwarnings("ignore", ".* of the images could not be read")
            X = np.asarray(self.featurizer.transform(images))
        unread = np.isnan(X.reshape(len(X), -1)).all(axis=1)
        return to_column(X), unread


class PredictJob:
    """Images or embeddings to predictions.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    method : str
        One of `OUTPUTS`.
    input_column, id_column : str
    has_gpu : bool, default=False
        As for `EmbedJob`.
    """

    def __init__(self, estimator, method, input_column, id_column, has_gpu=False):
        self.estimator = estimator
        self.method = method
        self.input_column = input_column
        self.id_column = id_column
        self.has_gpu = has_gpu
        self.output_column = OUTPUTS[method]

    def settings(self):
        """Return what decides the predictions, as plain data."""
        return {
            "task": "predict",
            "method": self.method,
            "estimator": joblib.hash(self.estimator),
        }

    def load(self):
        """Load the models of the estimator's featurizers."""
        for step in _steps(self.estimator):
            if isinstance(step, CLIPFeaturizer):
                _load(step, self.has_gpu)

    def compute(self, table):
        """Return the column of predictions, and which rows have null for one."""
        column = table[self.input_column]
        unread = np.zeros(len(table), dtype=bool)
        if not holds_floats(column.type):
            return self._predict(table, to_images(column)), unread
        X = to_array(column, self.input_column)
        unread = np.isnan(X.reshape(len(X), -1)).all(axis=1)
        if not unread.any():
            return self._predict(table, X), unread
        # Anything finite in their place: the column has its type if no row is left.
        X = np.where(unread.reshape(-1, *(1,) * (X.ndim - 1)), X.dtype.type(1), X)
        return with_nulls(self._predict(table, X), unread), unread

    def _predict(self, table, X):
        with naming_ids(table, self.id_column):
            found = np.asarray(getattr(self.estimator, self.method)(X))
            if found.ndim == 0 or len(found) != len(table):
                raise ValueError(
                    f"{self.method} gave an array of shape {found.shape} for "
                    f"{len(table)} rows; wanted is an entry for each row."
                )
            return to_column(found)


@contextmanager
def naming_ids(table, id_column):
    """Have errors name the ids of the rows that are computed within."""
    try:
        yield
    except ImageReadError as error:
        row = table[id_column][error.index].as_py()
        raise ImageReadError(
            f"The image of {id_column}={row!r} could not be read. {error}", error.index
        ) from error
    except Exception as error:
        error.add_note(
            f"Among the rows of {id_column}: {show(table[id_column].to_pylist())}"
        )
        raise


def _load(featurizer, has_gpu):
    """Load the model of a featurizer that is this actor's own."""
    if featurizer.device is None and not has_gpu:
        # Ray leaves all GPUs in sight of actors that asked for none.
        featurizer.set_params(device="cpu")
    return featurizer.load()


def _steps(estimator):
    """Yield an estimator and those within it that a pipeline would call."""
    yield estimator
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _steps(step)
    elif hasattr(estimator, "best_estimator_"):
        yield from _steps(estimator.best_estimator_)
