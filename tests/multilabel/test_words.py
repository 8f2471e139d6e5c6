"""Label vectors as people hold them: word vectors, of any width, and files of them."""

import os
from pathlib import Path
from runpy import run_path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot.multilabel._words import read_word_file, vectors_of_names

# Priors that are trained for three episodes know little.
pytestmark = pytest.mark.filterwarnings("ignore:The label vectors tell")
RNG = np.random.default_rng(0)
WORDS = ("cat", "dog", "stop_sign", "wine", "glass", "t-shirt", "red", "long", "sleeve")
VECTORS = dict(zip(WORDS, RNG.normal(size=(len(WORDS), 5)).round(4), strict=True))
MAKER = Path(__file__).parents[2] / "benchmarks" / "caption_vectors.py"


class KeyedVectors:
    """What gensim 4 offers of its class of that name."""

    def __init__(self, vectors):
        self.key_to_index = {word: index for index, word in enumerate(vectors)}
        self.vectors = np.array(list(vectors.values()))
        self.vector_size = self.vectors.shape[1]

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, word):
        return self.vectors[self.key_to_index[word]]


class OldKeyedVectors:
    """What older ones have, and models that make vectors of unknown words."""

    def __init__(self, vectors):
        self._vectors, self.vector_size = vectors, 5

    def __contains__(self, word):
        return word in self._vectors

    def __getitem__(self, word):
        return self._vectors[word]


def write(path, vectors=VECTORS, header=False, end="\n", separator=" "):
    lines = [
        separator.join([word, *map(str, vector)]) for word, vector in vectors.items()
    ]
    if header:
        lines.insert(0, f"{len(vectors)} {len(next(iter(vectors.values())))}")
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


@pytest.fixture(params=["dict", "gensim", "old gensim", "file", "name of a file"])
def held(request, tmp_path):
    """The vectors as people hold them."""
    path = tmp_path / "words.txt"
    return {
        "dict": lambda: VECTORS,
        "gensim": lambda: KeyedVectors(VECTORS),
        "old gensim": lambda: OldKeyedVectors(VECTORS),
        "file": lambda: write(path),
        "name of a file": lambda: str(write(path, header=True)),
    }[request.param]()


def mean(*words):
    return np.mean([VECTORS[word] for word in words], axis=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", VECTORS["cat"]),
        ("Cat", VECTORS["cat"]),
        ("stop sign", VECTORS["stop_sign"]),
        ("Stop  Sign", VECTORS["stop_sign"]),
        ("stop_sign", VECTORS["stop_sign"]),
        ("wine glass", mean("wine", "glass")),
        ("wine_glass", mean("wine", "glass")),
        ("wine-glass", mean("wine", "glass")),
        ("t-shirt", VECTORS["t-shirt"]),
        ("Red T-shirt", mean("red", "t-shirt")),
        ("long-sleeve t-shirt", None),
    ],
)
def test_names_are_found_whole_and_then_by_words(held, name, expected):
    if expected is None:
        with pytest.raises(ValueError, match=f"label '{name}': it lacks 't', 'shirt'"):
            vectors_of_names(held, [name])
    else:
        assert_allclose(vectors_of_names(held, ["dog", name])[1], expected)


@pytest.mark.parametrize(
    ("name", "lacks"), [("owl", "'owl'"), ("wine bar", "'bar'"), (" ", "words that")]
)
def test_a_missing_word_names_the_label(held, name, lacks):
    with pytest.raises(ValueError, match=f"label '{name}': it lacks {lacks}"):
        vectors_of_names(held, ["cat", name])


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", "\t"])
def test_files_of_either_form(tmp_path, header, end, separator):
    path = write(tmp_path / "w", header=header, end=end, separator=separator)
    found = read_word_file(path, {"dog", "glass", "owl"})
    assert set(found) == {"dog", "glass"}
    assert_array_equal(found["dog"], VECTORS["dog"])


def test_words_of_a_file_may_be_any_bytes_but_the_first_of_a_word_counts(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(
        b", 1 2\n\xff\xfe 3 4\n. . . 5 6\n\xc2\xa0 7 8\nowl 9 10\n\nowl 11 12\n"
    )
    assert_array_equal(read_word_file(path, {"owl"})["owl"], [9, 10])
    assert_array_equal(read_word_file(path, {". . ."})[". . ."], [5, 6])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat 1 2\ndog 1\n", "Line 2 of .*w is 'dog 1'; wanted 2 numbers"),
        (b"cat 1 2\ndog 1 2 3\n", "Line 2 .* 'dog 1 2 3'; wanted 2 numbers"),
        (b"cat 1 2\n\ndog 1 two\n", "Line 3 .* 'dog 1 two'; wanted a word and num"),
        (b"dog 1 nan\n", "Line 1 .* wanted finite"),
        (b"3 2\ndog 1 2\ncat 1\n", "Line 3 .* 'cat 1'"),
        (b"3 3\ndog 1 2\n", "Line 2 .* 'dog 1 2'; wanted 3"),
        (b"cat\n", "Line 1 .* 'cat'"),
        (b"", "Line 1 .* ''; wanted a word"),
        (b"3 4\ncat \x00\x01\xfe\n", "Line 2 .*gensim"),
    ],
)
def test_lines_that_are_no_vectors(tmp_path, content, message):
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_word_file(path, {"dog"})


@given(content=st.binary(max_size=200))
def test_any_bytes_of_a_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "w"
    path.write_bytes(content)
    try:
        found = read_word_file(path, {"a"})
    except ValueError as error:
        assert "Line" in str(error)
    else:
        assert all(np.isfinite(vector).all() for vector in found.values())


# As label_features


def make_base(planted, width=9, **options):
    """Draw images, and vectors of another width that are a turn of the texts."""
    data = planted(60, n_labels=8, world=1, d=16, n_parts=6, **options)
    turn = np.random.default_rng(3).normal(size=(16, width))
    return data, data.text @ turn, turn


STEPS = ("gate", "convolution", "attention")
SMALL = {
    **{"interaction": STEPS, "n_heads": 4, "n_episodes": 3, "eval_every": 3},
    **{"n_way": 5, "shots": (1, 2)},
}


@pytest.fixture(scope="module")
def trained(planted):
    """A prior of vectors 9 wide, novel images, and vectors of theirs."""
    base, vectors, turn = make_base(planted)
    prior = MultiLabelPrototypePrior(random_state=0, **SMALL)
    prior.fit(base.X, base.Y, label_features=vectors)
    novel = planted(12, n_labels=4, world=2, d=16, n_parts=6)
    return prior, novel, novel.text @ turn


def test_every_form_gives_the_same(trained, tmp_path):
    prior, novel, vectors = trained
    assert (prior.width_, prior.label_width_) == (16, 9)
    names = ["cat", "stop sign", "wine glass", "dog"]
    whole = dict(zip(["cat", "stop_sign", "wine glass", "dog"], vectors, strict=True))
    path = write(tmp_path / "w", {k: v.tolist() for k, v in whole.items()})
    frame = pd.DataFrame(novel.Y, columns=names)
    expected = MultiLabelPrototypeClassifier(vectors, prior=prior)
    expected = expected.fit(novel.X, novel.Y).predict_proba(novel.X)
    forms = [
        (whole, {}, frame),
        (dict(enumerate(vectors)), {}, novel.Y),
        (pd.DataFrame(vectors, index=names), {}, frame),
        (KeyedVectors(whole), {}, frame),
        (KeyedVectors(whole), {"label_names": names}, novel.Y),
        (OldKeyedVectors(whole), {}, frame),
        (path, {}, frame),
        (str(path), {"label_names": names}, novel.Y),
        ("auto", {"text_encoder": lambda n: vectors, "label_names": names}, novel.Y),
    ]
    for features, options, Y in forms:
        model = MultiLabelPrototypeClassifier(features, prior=prior, **options)
        found = model.fit(novel.X, Y).predict_proba(novel.X)
        assert_allclose(found, expected, rtol=1e-9)
    assert model.label_vectors_.shape == model.prototypes_.shape == (4, 16)


def test_a_prior_is_trained_from_every_form(planted, held):
    base, _, _ = make_base(planted)
    names = ["cat", "dog", "stop sign", "wine", "glass", "red", "t-shirt", "red wine"]
    frame = pd.DataFrame(base.Y, columns=names)
    vectors = vectors_of_names(VECTORS, names)
    one, other = (
        MultiLabelPrototypePrior(random_state=0, **SMALL).fit(base.X, Y, features)
        for features, Y in ((held, frame), (vectors, base.Y))
    )
    assert one.loss_curve_ == other.loss_curve_
    assert one.label_width_ == 5


def test_without_a_prior_it_is_said_what_is_missing(trained):
    prior, novel, vectors = trained
    with pytest.raises(ValueError, match=r"\(4, 9\); wanted \(4, 16\).*prior=.*dth 9"):
        MultiLabelPrototypeClassifier(vectors).fit(novel.X, novel.Y)
    wrong = "trained with label vectors of width 9, .*label_features.* of width 7"
    with pytest.raises(ValueError, match=wrong):
        MultiLabelPrototypeClassifier(vectors[:, :7], prior=prior).fit(novel.X, novel.Y)


def test_labels_that_are_no_words_need_names(trained, tmp_path):
    prior, novel, _ = trained
    for features in (KeyedVectors(VECTORS), write(tmp_path / "w")):
        model = MultiLabelPrototypeClassifier(features, prior=prior)
        with pytest.raises(ValueError, match=r"\[0, 1, 2, 3\].*label_names"):
            model.fit(novel.X, novel.Y)


def test_files_that_are_not_there(trained, tmp_path):
    prior, novel, _ = trained
    frame = pd.DataFrame(novel.Y, columns=list("abcd"))
    with pytest.raises(ValueError, match="label_features='clip' is neither 'auto'"):
        MultiLabelPrototypeClassifier("clip", prior=prior).fit(novel.X, frame)
    with pytest.raises(FileNotFoundError):
        MultiLabelPrototypeClassifier(tmp_path / "w", prior=prior).fit(novel.X, frame)
    with pytest.raises(IsADirectoryError):
        MultiLabelPrototypeClassifier(tmp_path, prior=prior).fit(novel.X, frame)


def test_a_prior_of_words_is_saved_whole(trained, tmp_path):
    prior, novel, vectors = trained
    path = tmp_path / "prior"
    prior.save(path)
    loaded = MultiLabelPrototypePrior.load(path)
    assert os.listdir(tmp_path) == ["prior"]
    assert (loaded.width_, loaded.label_width_) == (16, 9)
    found, expected = (
        MultiLabelPrototypeClassifier(vectors, prior=p).fit(novel.X, novel.Y)
        for p in (loaded, prior)
    )
    assert_array_equal(found.prototypes_, expected.prototypes_)


def test_maps_start_where_vectors_meet_the_images(planted):
    """Vectors of novel labels lie near their images before anything is trained."""
    options = {"noise": 0.3, "text_noise": 0.2, "n_labels": 40}
    data = planted(400, world=1, d=16, n_parts=9, most_labels=2, **options)
    turn = np.random.default_rng(3).normal(size=(16, 24))
    base, novel = np.arange(32), np.arange(32, 40)
    is_base = ~data.Y[:, novel].any(axis=1)
    for vectors in (data.text @ turn, data.text @ turn[:, :16], data.text):
        prior = MultiLabelPrototypePrior(
            **{**SMALL, "interaction": ()}, learning_rate=1e-30, random_state=0
        ).fit(data.X[is_base], data.Y[is_base][:, base], vectors[base])
        assert max(prior.validation_scores_) > 0.7
    # Where they do already, nothing is changed.
    assert_array_equal(prior.state_["label_map"], np.eye(16))


def test_image_features_of_another_common_width(planted):
    base, vectors, _ = make_base(planted, noise=0.3)
    for width in (4, 24):
        prior = MultiLabelPrototypePrior(n_components=width, random_state=0, **SMALL)
        prior.fit(base.X, base.Y, vectors)
        model = MultiLabelPrototypeClassifier(vectors, prior=prior)
        model.fit(base.X, base.Y)
        assert model.prototypes_.shape == (8, width)
        assert np.isfinite(model.explain(base.X)).all()


@pytest.mark.skipif(not MAKER.exists(), reason="benchmarks are not here")
def test_vectors_of_captions_tell_rendered_kinds(tmp_path):
    """Words that stand together in captions know nothing of pictures."""
    from skfewshot import CLIPFeaturizer
    from skfewshot.datasets import BASE_KINDS, NOVEL_KINDS, make_scenes

    maker = run_path(str(MAKER))
    vectors = maker["caption_vectors"](400, 50, seed=0)
    maker["write_vectors"](vectors, tmp_path / "words.txt")
    clip = CLIPFeaturizer("tiny", output="tokens")
    base = make_scenes(120, random_state=0)
    prior = MultiLabelPrototypePrior(
        n_episodes=2, label_names=BASE_KINDS, random_state=0
    ).fit(clip.fit_transform(base.images), base.labels, vectors)
    scenes = make_scenes(16, kinds=NOVEL_KINDS, random_state=1)
    model = MultiLabelPrototypeClassifier(
        str(tmp_path / "words.txt"), prior=prior, label_names=NOVEL_KINDS
    ).fit(clip.transform(scenes.images), scenes.labels)
    assert prior.label_width_ == 50
    assert model.prototypes_.shape == (12, 128)
    assert np.isfinite(model.predict_proba(clip.transform(scenes.images))).all()
