"""Data frames and columns of pandas and polars, as images, rows, labels and output."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from skfewshot import (
    CLAPClassifier,
    CLIPFeaturizer,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)

pytestmark = pytest.mark.slow

CLASSIFIERS = [
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    MultiLabelPrototypeClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
]
STRING_COLUMNS = {
    "pandas": pd.Series,
    "pandas object": lambda y: pd.Series(y, dtype=object),
    "pandas string": lambda y: pd.Series(y, dtype="string[python]"),
    "pandas string of arrow": lambda y: pd.Series(y, dtype="string[pyarrow]"),
    "pandas of arrow": lambda y: pd.Series(y).astype(pd.ArrowDtype(pa.string())),
    "pandas categories": lambda y: pd.Series(y, dtype="category"),
    "Categorical, one unused": lambda y: pd.Categorical(y, [*sorted(set(y)), "zebra"]),
    "pandas index": pd.Index,
    "polars": pl.Series,
    "polars categories": lambda y: pl.Series(y, dtype=pl.Categorical),
    "polars enum": lambda y: pl.Series(y, dtype=pl.Enum(sorted(set(y)))),
    "arrow": lambda y: pa.array(list(y)),
}
if hasattr(np.dtypes, "StringDType"):  # since NumPy 2
    STRING_COLUMNS["NumPy"] = lambda y: np.array(y, dtype=np.dtypes.StringDType())
INTEGER_COLUMNS = {
    "pandas Int64": lambda y: pd.Series(y, dtype="Int64"),
    "pandas of arrow": lambda y: pd.Series(y).astype("int8[pyarrow]"),
    "pandas categories": lambda y: pd.Series(y, dtype="category"),
    "polars": pl.Series,
    "floats": lambda y: y.astype(np.float32),
}
BOOLEAN_COLUMNS = {
    "NumPy": np.asarray,
    "pandas": pd.Series,
    "pandas boolean": lambda y: pd.Series(y, dtype="boolean"),
    "pandas of arrow": lambda y: pd.Series(y).astype("bool[pyarrow]"),
    "polars": pl.Series,
}
MISSING = {
    "object": lambda y: y,
    "list": list,
    "pandas": pd.Series,
    "pandas str": lambda y: pd.Series(y, dtype="str"),
    "pandas string of arrow": lambda y: pd.Series(y, dtype="string[pyarrow]"),
    "pandas categories": lambda y: pd.Series(y, dtype="category"),
    "polars": lambda y: pl.Series(list(y)),
    "polars categories": lambda y: pl.Series(list(y), dtype=pl.Categorical),
}
MISSING_NUMBERS = {
    "pandas Int64": lambda y: pd.Series(y, dtype="Int64"),
    "pandas boolean": lambda y: pd.Series(y == 1, dtype="boolean").mask(pd.isna(y)),
    "pandas of arrow": lambda y: pd.Series(y, dtype="Int64").astype("int64[pyarrow]"),
    "polars": lambda y: pl.Series(list(y)),
    "polars booleans": lambda y: pl.Series([i and i == 1 for i in y]),
}


def columns_of(columns):
    return pytest.mark.parametrize("convert", columns.values(), ids=columns.keys())


def frame_of(X, library, names=None):
    """Return embeddings as a data frame with names of columns."""
    names = [f"e{i}" for i in range(X.shape[1])] if names is None else names
    if library is pd:
        return pd.DataFrame(np.asarray(X), columns=names)
    return pl.DataFrame(np.asarray(X), schema=names)


@pytest.fixture(scope="module")
def fitted(support):
    """The classifier that every form of the same labels should lead to."""
    return CMMClassifier().fit(support.X, support.names)


# Labels


@columns_of(STRING_COLUMNS)
def test_names_in_a_column(support, fitted, convert):
    y = convert(support.names)
    model = CMMClassifier().fit(support.X, y)
    assert model.prototype_source_ == "embedding"
    assert_array_equal(model.classes_, support.classes)
    assert_allclose(model.map_, fitted.map_, rtol=1e-5, atol=1e-5)
    assert_array_equal(model.predict(support.X), fitted.predict(support.X))
    assert model.score(support.X, y) == fitted.score(support.X, support.names)


@columns_of(INTEGER_COLUMNS)
def test_numbers_in_a_column(support, fitted, convert):
    y = convert(support.codes)
    model = CMMClassifier(class_names=dict(enumerate(support.classes)))
    model.fit(support.X, y)
    assert_allclose(model.map_, fitted.map_, rtol=1e-5, atol=1e-5)
    assert model.score(support.X, y) > 0.9


@columns_of(BOOLEAN_COLUMNS)
def test_booleans_in_a_column(support, convert):
    y = convert(support.codes == 1)
    names = {False: "something else", True: support.classes[1]}
    model = CMMClassifier(class_names=names).fit(support.X, y)
    assert model.prototype_source_ == "embedding"
    assert model.predict(support.X).tolist() == (support.codes == 1).tolist()
    assert model.score(support.X, y) == 1


@columns_of(MISSING)
def test_missing_names_are_refused_or_no_labels(support, convert):
    y = support.names.astype(object)
    y[[3, 7]] = None
    with pytest.raises(ValueError, match=r"y contains NaN.*at the indexes \[3, 7\]"):
        LPPlusPlusClassifier().fit(support.X, convert(y))
    model = CMMClassifier().fit(support.X, convert(y))
    assert_array_equal(model.classes_, support.classes)


@pytest.mark.parametrize("missing", [np.nan, pd.NA])
def test_missing_names_of_pandas(support, missing):
    y = support.names.astype(object)
    y[[3, 7]] = missing
    for column in (y, pd.Series(y), pd.Series(y, dtype="category")):
        with pytest.raises(ValueError, match=r"at the indexes \[3, 7\]"):
            LPPlusPlusClassifier().fit(support.X, column)
        model = CMMClassifier().fit(support.X, column)
        assert_array_equal(model.classes_, support.classes)


@columns_of(MISSING_NUMBERS)
def test_missing_numbers_are_refused_or_no_labels(support, convert):
    y = support.codes.astype(object)
    y[3] = None
    with pytest.raises(ValueError, match="y contains NaN"):
        LPPlusPlusClassifier(text_features=None).fit(support.X, convert(y))
    model = CMMClassifier(text_features=None).fit(support.X, convert(y))
    assert model.classes_.dtype.kind in "ib"


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_of_one_column_of_labels_warns(support, library):
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = CMMClassifier().fit(support.X, library.DataFrame({"y": support.names}))
    assert model.prototype_source_ == "embedding"


def test_rows_labels_and_weights_meet_by_position(support, clip):
    rng = np.random.default_rng(0)
    weight = np.linspace(0.1, 2, 24)
    expected = CMMClassifier().fit(support.X, support.names, sample_weight=weight)
    X = frame_of(support.X, pd).set_axis(rng.permutation(24), axis=0)
    model = CMMClassifier(text_encoder=clip).fit(
        X,
        pd.Series(support.names, index=rng.permutation(24)),
        sample_weight=pd.Series(weight, index=rng.permutation(24)),
    )
    assert_allclose(model.map_, expected.map_, atol=1e-6)
    for column in (pl.Series(weight), pd.Series(weight, dtype="Float64")):
        same = CMMClassifier().fit(support.X, support.names, sample_weight=column)
        assert_array_equal(same.map_, expected.map_)
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        missing = pd.Series(weight).mask(weight > 1.9)
        CMMClassifier().fit(support.X, support.names, sample_weight=missing)


# Embeddings in frames, and the names of their columns


@pytest.mark.parametrize("library", [pd, pytest.param(pl, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", CLASSIFIERS)
def test_feature_names(support, clip, library, method):
    X = frame_of(support.X, library)
    model = method(text_encoder=clip).fit(X, support.names)
    assert model.prototype_source_ == "text_encoder"
    assert_array_equal(model.feature_names_in_, X.columns)
    plain = method(text_encoder=clip).fit(np.asarray(support.X), support.names)
    assert not hasattr(plain, "feature_names_in_")
    assert_allclose(
        model.predict_proba(X), plain.predict_proba(np.asarray(support.X)), atol=2e-4
    )
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- z"):
        model.predict(frame_of(support.X, library, ["z", *X.columns[1:]]))
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict_proba(X[list(X.columns[::-1])])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(np.asarray(support.X))
    with pytest.warns(UserWarning, match="fitted without feature names"):
        plain.predict(X)


def test_names_of_columns_that_are_not_all_strings(support, clip):
    X = frame_of(support.X, pd)
    model = CMMClassifier(text_encoder=clip)
    numbered = model.fit(X.set_axis(range(X.shape[1]), axis=1), support.names)
    assert not hasattr(numbered, "feature_names_in_")
    with pytest.raises(TypeError, match="all input features have string names"):
        model.fit(X.rename(columns={"e0": 0}), support.names)


def test_one_frame_library_after_another(support, clip):
    model = CMMClassifier(text_encoder=clip).fit(frame_of(support.X, pd), support.names)
    found = model.predict(frame_of(support.X, pl))
    assert_array_equal(found, model.predict(frame_of(support.X, pd)))


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float[pyarrow]", "polars"])
def test_frames_of_singles_are_computed_in_singles(support, fitted, clip, dtype):
    X = frame_of(support.X, pl if dtype == "polars" else pd)
    X = X if dtype == "polars" else X.astype(dtype)
    model = CMMClassifier(text_encoder=clip).fit(X, support.names)
    found = model.predict_proba(X)
    assert found.dtype == np.float32
    assert_allclose(found, fitted.predict_proba(support.X), atol=1e-5)
    doubles = frame_of(support.X.astype(np.float64), pl if dtype == "polars" else pd)
    assert model.predict_proba(doubles).dtype == np.float64


# Output


@pytest.mark.parametrize("container", ["default", "pandas", "polars"])
def test_set_output_of_a_pipeline(support, fitted, clip, container):
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(text_encoder=clip))
    model.set_output(transform=container).fit(support.images, support.names)
    mapped = model.transform(support.images)
    expected = [f"cmmclassifier{i}" for i in range(support.X.shape[1])]
    assert model.get_feature_names_out().tolist() == expected
    embedded = [f"clipfeaturizer{i}" for i in range(support.X.shape[1])]
    assert model[:-1].get_feature_names_out().tolist() == embedded
    if container == "default":
        assert isinstance(mapped, np.ndarray)
    else:
        assert type(mapped).__module__.startswith(container)
        assert list(mapped.columns) == expected
        assert_array_equal(model[-1].feature_names_in_, embedded)
    assert_allclose(np.asarray(mapped), fitted.transform(support.X), atol=1e-4)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_frames_between_the_steps_lose_the_texts_with_a_warning(support, container):
    for method, match in (
        (CMMClassifier(), "data frame made by a CLIPFeaturizer"),
        (MultiLabelPrototypeClassifier(label_names=list("abc")), "Pass text_encoder"),
    ):
        model = make_pipeline(CLIPFeaturizer("tiny"), method)
        model.set_output(transform=container)
        Y = np.eye(3, dtype=int)[support.codes]
        labels = support.names if isinstance(method, CMMClassifier) else Y
        with pytest.warns(UserWarning, match=match):
            model.fit(support.images, labels)
        assert model[-1].prototype_source_ == "image"


# Columns of paths


@pytest.fixture(scope="module")
def files(support, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(folder / f"{i}.png") for i in range(len(support.images))]
    for path, image in zip(paths, support.images, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.parametrize("library", [pd, pytest.param(pl, marks=pytest.mark.slow)])
def test_from_a_table_of_paths_and_labels(support, files, library):
    table = library.DataFrame({"path": files, "label": list(support.names)})
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())
    X_train, X_test, y_train, y_test = train_test_split(
        table["path"], table["label"], stratify=table["label"], random_state=0
    )
    assert model.fit(X_train, y_train).score(X_test, y_test) > 0.7
    search = GridSearchCV(
        model, {"cmmclassifier__alpha": ["auto", 1.0]}, cv=2, error_score="raise"
    ).fit(table["path"], table["label"])
    assert search.best_estimator_[-1].prototype_source_ == "embedding"
    assert search.best_score_ > 0.7
    predicted = cross_val_predict(model, table["path"], table["label"], cv=3)
    assert (predicted == support.names).mean() > 0.7


@pytest.mark.parametrize("library", [pd, pl])
def test_column_transformer_picks_the_column_of_paths(
    support, fitted, files, clip, library
):
    table = library.DataFrame({"path": files, "size": np.arange(24)})
    pick = ColumnTransformer([("clip", CLIPFeaturizer("tiny"), "path")])
    model = make_pipeline(pick, CMMClassifier(text_encoder=clip))
    model.fit(table, support.names)
    assert model[0].get_feature_names_out()[0] == "clip__clipfeaturizer0"
    assert_allclose(
        model.predict_proba(table), fitted.predict_proba(support.X), atol=1e-4
    )
    with pytest.warns(UserWarning, match="does not know its encoder"):
        make_pipeline(pick, CMMClassifier()).fit(table, support.names)


# Other steps beside the featurizer


@pytest.mark.slow
def test_steps_that_keep_the_encoder(support, files, tmp_path):
    clip = CLIPFeaturizer("tiny")
    for steps in (
        [FunctionTransformer(list), clip],
        [clip, FunctionTransformer()],
        [clip, "passthrough"],
    ):
        model = make_pipeline(*steps, CMMClassifier(), memory=str(tmp_path))
        for _ in range(2):  # embedded, and then from the memory
            model.fit(files, support.names)
            assert model[-1].prototype_source_ == "embedding"


@pytest.mark.parametrize(
    "between", [Normalizer(), FunctionTransformer(np.array)], ids=["scaled", "copied"]
)
def test_steps_that_lose_the_encoder_warn(support, clip, between):
    model = make_pipeline(CLIPFeaturizer("tiny"), between, CMMClassifier())
    with pytest.warns(UserWarning, match="does not know its encoder"):
        model.fit(support.images, support.names)
    model.set_params(cmmclassifier__text_encoder=clip)
    model.fit(support.images, support.names)
    assert model[-1].prototype_source_ == "text_encoder"


@pytest.mark.parametrize(
    "model",
    [
        CMMClassifier(),
        make_pipeline(FunctionTransformer(), CMMClassifier()),
        CMMClassifier(class_names={"disk": "a disk"}),
        CMMClassifier(prompt_templates="a {}"),
    ],
    ids=["alone", "in a pipeline", "named", "prompted"],
)
def test_one_warning_at_the_line_of_the_user(support, model):
    with pytest.warns(UserWarning, match=r"[Pp]ass text_encoder") as caught:
        model.fit(np.asarray(support.X), support.names)
    warned = [w for w in caught if "pass text_encoder" in str(w.message).lower()]
    assert [w.filename for w in warned] == [__file__]


def test_no_warning_where_no_text_is_to_be_expected(support):
    X, numbers = np.asarray(support.X), support.codes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CMMClassifier(text_features=None).fit(X, support.names)
        CMMClassifier().fit(X, numbers)
        CMMClassifier().fit(3 * X, support.names)  # measured by other means


def test_two_encoders_side_by_side_have_no_texts(support):
    union = FeatureUnion([("a", CLIPFeaturizer("tiny")), ("b", CLIPFeaturizer("tiny"))])
    model = make_pipeline(union, CMMClassifier(text_features=None))
    model.fit(support.images, support.names)
    assert model[0].get_feature_names_out()[-1] == "b__clipfeaturizer127"
    assert model.score(support.images, support.names) > 0.9
