"""MultiLabelPrototypePrior: episodes, what they train, and that it stays frozen."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import erf, expit, softmax
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot.metrics import mean_average_precision_scorer
from skfewshot.model_selection import MultilabelStratifiedKFold
from skfewshot.multilabel._episodes import (
    BaseSet,
    Sizes,
    draw_episode,
    episode_losses,
    map_features,
    split_labels,
)
from skfewshot.multilabel._interaction import CrossInteraction, PriorNetwork
from skfewshot.multilabel._prior_state import (
    image_maps,
    learned_text_shares,
    map_labels,
)
from skfewshot.multilabel._prototypes import (
    Pairs,
    centre_labels,
    label_sums,
    make_pairs,
    mix,
)
from skfewshot.multilabel._reading import split_tokens
from skfewshot.multilabel._scoring import Scorer, score
from skfewshot.multilabel._selection import select
from skfewshot.multilabel._tokens import FeatureMap, Support, feature_means
from skfewshot.multilabel._training import average_precision

ALL_STEPS = ("gate", "convolution", "attention")
SMALL = {
    "interaction": ["gate", "convolution", "attention"],
    "n_heads": 4,
    "n_episodes": 6,
    "eval_every": 2,
    "n_way": 5,
    "shots": (1, 2),
    "n_query": 20,
    "learning_rate": 1e-2,
    "random_state": 0,
}
WORLD = {"d": 16, "n_parts": 6, "most_labels": 2, "noise": 0.4}
OUTPUTS = ("predict_proba", "predict", "explain", "decision_function")


@pytest.fixture(scope="module")
def base(planted):
    return planted(60, n_labels=8, world=1, dtype=np.float32, **WORLD)


@pytest.fixture(scope="module")
def novel(planted):
    return planted(12, n_labels=4, world=2, dtype=np.float32, **WORLD)


def train(base, **params):
    prior = MultiLabelPrototypePrior(**{**SMALL, **params})
    return prior.fit(base.X, base.Y, label_features=base.text)


@pytest.fixture(scope="module")
def prior(base):
    return train(base, interaction=ALL_STEPS)


def learn(novel, prior, **params):
    model = MultiLabelPrototypeClassifier(novel.text, prior=prior, **params)
    return model.fit(novel.X, novel.Y)


def assert_same_state(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        assert_array_equal(value, other[name], err_msg=name)


# Training


def test_an_int_gives_the_same_prior_each_time(base, prior):
    again = train(base, interaction=ALL_STEPS)
    assert_same_state(again.state_, prior.state_)
    assert again.loss_curve_ == prior.loss_curve_
    assert again.validation_scores_ == prior.validation_scores_
    other = train(base, interaction=ALL_STEPS, random_state=1)
    assert other.loss_curve_ != prior.loss_curve_


def test_a_generator_of_the_caller_is_drawn_from(base, prior):
    shared = np.random.RandomState(0)
    one = train(base, interaction=ALL_STEPS, random_state=shared)
    other = train(base, interaction=ALL_STEPS, random_state=shared)
    assert one.loss_curve_ == prior.loss_curve_ != other.loss_curve_


def test_curves_and_the_best_episode(base):
    # No better score within reach of the patience: all episodes are done.
    prior = train(base, n_episodes=7, eval_every=3, patience=100)
    assert prior.n_iter_ == len(prior.loss_curve_) == 7
    assert len(prior.validation_scores_) == 4
    assert np.isfinite(prior.loss_curve_).all()
    assert all(0 <= score <= 1 for score in prior.validation_scores_)
    judged = [0, 3, 6, 7]
    assert prior.best_episode_ == judged[int(np.argmax(prior.validation_scores_))]


def test_training_stops_early_and_keeps_the_best_state(base):
    # With steps of nothing, no score is better than that of the start.
    prior = train(base, learning_rate=1e-30, n_episodes=50, patience=1)
    assert prior.n_iter_ == 2
    assert len(prior.validation_scores_) == 2
    assert prior.best_episode_ == 0
    assert_array_equal(prior.state_["part_map"], np.eye(16))
    assert_array_equal(prior.state_["whole_map"], 0)
    patient = train(base, learning_rate=1e-30, n_episodes=50, patience=2)
    assert patient.n_iter_ == 4


@pytest.mark.parametrize("params", [{}, {"interaction": ALL_STEPS}], ids=str)
def test_an_untrained_prior_changes_nothing(base, novel, params):
    prior = train(base, learning_rate=1e-30, patience=1, **params)
    assert prior.best_episode_ == 0
    without = learn(novel, None, text_weight=0.5)
    by_prior = learn(novel, prior, text_weight=0.5)
    for output in OUTPUTS:
        assert_allclose(
            getattr(by_prior, output)(novel.X),
            getattr(without, output)(novel.X),
            rtol=1e-4,
            atol=1e-5,
        )


def test_text_shares_fall_with_the_images_and_are_one_without(prior):
    shares = prior.text_shares(np.array([0.0, 1.0, 2.0, 5.0, 50.0]))
    assert shares[0] == 1
    assert (np.diff(shares) < 0).all()
    assert ((shares[1:] > 0) & (shares[1:] < 1)).all()


def make_turned_world(seed, n_labels=60, d=16):
    """Texts are the images' directions after a linear map that has to be learned."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_labels, d))
    text = concepts @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)))

    def draw(labels, n_images, seed):
        rng = np.random.default_rng(seed)
        own = np.stack([rng.permutation(len(labels))[:2] for _ in range(n_images)])
        Y = np.zeros((n_images, len(labels)), dtype=int)
        np.put_along_axis(Y, own, 1, axis=1)
        parts = concepts[labels][np.repeat(own, 3, axis=1)]
        parts = parts + 1.6 * rng.normal(size=parts.shape)
        X = np.concatenate([parts.mean(axis=1, keepdims=True), parts], axis=1)
        return X.astype(np.float32), Y, text[labels]

    return draw


@pytest.mark.slow
def test_what_base_labels_teach_helps_novel_labels():
    base_labels, novel_labels = np.arange(48), np.arange(48, 60)
    gains = []
    for seed in range(2):
        draw = make_turned_world(seed)
        X, Y, text = draw(base_labels, 300, 1)
        prior = MultiLabelPrototypePrior(
            n_episodes=60, learning_rate=3e-3, n_way=16, n_select=3, random_state=0
        ).fit(X, Y, label_features=text)
        assert prior.best_episode_ > 0
        assert max(prior.validation_scores_) > prior.validation_scores_[0]
        X, Y, text = draw(novel_labels, 8, 2)
        queries, truth, _ = draw(novel_labels, 200, 3)
        without, by_prior = (
            mean_average_precision_scorer(
                MultiLabelPrototypeClassifier(text, prior=p, n_select=3).fit(X, Y),
                queries,
                truth,
            )
            for p in (None, prior)
        )
        gains.append(by_prior - without)
    assert np.mean(gains) > 0.02


@pytest.mark.parametrize(
    ("interaction", "residual"),
    [((), True), *(((step,), True) for step in ALL_STEPS), (ALL_STEPS, False)],
    ids=str,
)
def test_every_interaction_trains_and_predicts(base, novel, interaction, residual):
    prior = train(
        base, interaction=interaction, residual=residual, n_episodes=2, eval_every=2
    )
    assert np.isfinite(prior.loss_curve_).all()
    assert all(np.isfinite(value).all() for value in prior.state_.values())
    model = learn(novel, prior)
    probabilities = model.predict_proba(novel.X)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert np.isfinite(model.explain(novel.X)).all()
    assert model.prototypes_.dtype == np.float32
    assert_allclose(np.linalg.norm(model.prototypes_, axis=1), 1, rtol=1e-5)
    double = MultiLabelPrototypeClassifier(novel.text, prior=prior)
    double.fit(novel.X.astype(np.float64), novel.Y)
    assert double.prototypes_.dtype == np.float64
    assert_allclose(double.label_vectors_, model.label_vectors_, atol=1e-5)


@pytest.mark.parametrize(
    ("query_scoring", "selection"),
    [("local", "lcm_paper"), ("global", "text"), ("both", "none")],
)
def test_every_selection_and_scoring_trains(base, novel, query_scoring, selection):
    prior = train(
        base,
        query_scoring=query_scoring,
        selection=selection,
        alignment_weight=1.0,
        n_episodes=2,
    )
    assert np.isfinite(prior.loss_curve_).all()
    assert any(np.abs(value).max() > 0 for value in prior.state_.values())
    model = learn(novel, prior, query_scoring=query_scoring, selection=selection)
    assert np.isfinite(model.decision_function(novel.X)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_tokens_of_other_precision_train(base, novel, prior, dtype):
    other = MultiLabelPrototypePrior(**{**SMALL, "n_episodes": 2})
    other.fit(base.X.astype(dtype), base.Y, label_features=base.text)
    assert np.isfinite(other.loss_curve_).all()
    assert np.isfinite(learn(novel, other).predict_proba(novel.X)).all()
    assert_allclose(other.loss_curve_[0], prior.loss_curve_[0], rtol=1e-2)


def test_padding_and_flattened_tokens_train_alike(base, prior):
    padded = np.concatenate([base.X, np.full_like(base.X[:, :2], np.nan)], axis=1)
    one = prior
    other = MultiLabelPrototypePrior(**SMALL).fit(
        padded, base.Y, label_features=base.text
    )
    flat = MultiLabelPrototypePrior(n_tokens=7, **SMALL).fit(
        base.X.reshape(60, -1), base.Y, label_features=base.text
    )
    assert_same_state(one.state_, flat.state_)
    assert (flat.width_, flat.n_features_in_) == (16, 7 * 16)
    assert_allclose(other.loss_curve_, one.loss_curve_, rtol=1e-3)


def test_global_generators_and_the_callers_mode_are_left_alone(base, novel, prior):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(base, n_episodes=2)
    predicted = learn(novel, prior).predict_proba(novel.X)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            inside = train(base, interaction=ALL_STEPS)
            found = learn(novel, inside).predict_proba(novel.X)
        assert_same_state(inside.state_, prior.state_)
        assert_array_equal(found, predicted)


# Episodes and the equations


@settings(max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    n_way=st.integers(2, 9),
    fewest=st.integers(1, 4),
    more=st.integers(0, 3),
    n_query=st.integers(1, 40),
)
def test_episodes_are_small_few_shot_problems(seed, n_way, fewest, more, n_query):
    rng = np.random.default_rng(seed)
    indicator = (rng.random((40, 10)) < 0.2).astype(float)
    indicator[:20, :] += np.tile(np.eye(10), (2, 1))
    indicator = np.minimum(indicator, 1)
    labels = rng.permutation(10)[:7]
    images = np.sort(rng.permutation(40)[:35])
    episode = draw_episode(
        rng,
        indicator,
        labels,
        images,
        Sizes(n_way, (fewest, fewest + more), n_query),
    )
    assert set(episode.labels) <= set(labels)
    assert len(set(episode.labels)) == len(episode.labels) == min(n_way, 7)
    assert not set(episode.support) & set(episode.query)
    assert len(set(episode.support)) == len(episode.support)
    assert 0 <= len(episode.query) <= n_query
    shown = indicator[:, episode.labels]
    assert shown[np.r_[episode.support, episode.query]].any(axis=1).all()
    assert set(episode.support) | set(episode.query) <= set(images)
    available = shown[images].sum(axis=0)
    least = np.minimum(fewest, np.maximum(available // 2, 1))
    least = np.minimum(least, available)
    assert (shown[episode.support].sum(axis=0) >= least).all()


def layer_norm(x, module):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(
        x.var(axis=-1, keepdims=True) + module.eps
    )
    return x * module.weight.detach().numpy() + module.bias.detach().numpy()


def linear(x, module):
    out = x @ module.weight.detach().numpy().T
    return out if module.bias is None else out + module.bias.detach().numpy()


def slow_interaction(net, x, psi, w):
    """Compute the documented steps for the features of one image and one label."""
    d = x.shape[1]
    q = layer_norm(psi, net.query_norm)
    if "gate" in net.steps:
        inner, outer = net.gate
        x = x + x * expit(linear(linear(x + q, inner), outer))
    if "convolution" in net.steps:
        code = linear(w, net.kernel_code)
        first = linear(code, net.kernel_in).reshape(d, -1) / np.sqrt(d)
        second = linear(code, net.kernel_out).reshape(-1, d)
        hidden = np.maximum(layer_norm(x @ first, net.norm_in), 0)
        x = np.maximum(layer_norm(hidden @ second, net.norm_out), 0)
    if "attention" in net.steps:
        attention = net.attention
        matrices = attention.in_proj_weight.detach().numpy().reshape(3, d, d)
        shifts = attention.in_proj_bias.detach().numpy().reshape(3, d)
        query, keys, values = (
            part @ matrix.T + shift
            for part, matrix, shift in zip((q, x, x), matrices, shifts, strict=True)
        )
        size = d // attention.num_heads
        heads = []
        for head in range(attention.num_heads):
            own = slice(head * size, (head + 1) * size)
            weights = softmax(keys[:, own] @ query[own] / np.sqrt(size))
            heads.append(weights @ values[:, own])
        z = linear(np.concatenate(heads), attention.out_proj)
    else:
        z = x.mean(axis=0)
    inner, _, outer = net.mlp
    hidden = linear(layer_norm(z, net.mlp_norm), inner)
    hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return layer_norm(z + linear(hidden, outer), net.out_norm)


@pytest.mark.parametrize(
    "steps", [*((step,) for step in ALL_STEPS), ALL_STEPS], ids=str
)
def test_the_interaction_is_the_documented_equation(unit, steps):
    rng = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = CrossInteraction(8, steps, 2).double().eval()
        with torch.no_grad():
            for parameter in net.parameters():
                # Biases and norms away from their trivial start.
                parameter.add_(0.1 * torch.randn_like(parameter))
    features = rng.normal(size=(4, 5, 8))
    valid = np.ones((4, 5), dtype=bool)
    valid[1, 2:] = False
    psi, w = unit(rng.normal(size=(2, 3, 8)))
    labels = np.array([0, 2, 1, 2])
    arguments = [torch.from_numpy(a) for a in (features, valid, psi, w, labels)]
    with torch.no_grad():
        found = net(*arguments).numpy()
    for pair, label in enumerate(labels):
        shown = features[pair][valid[pair]]
        expected = slow_interaction(net, shown, psi[label], w[label])
        assert_allclose(found[pair], expected, rtol=1e-6, atol=1e-8)


def test_maps_are_the_documented_equation(prior, novel, unit):
    model = learn(novel, prior)
    state = {k: v.astype(np.float64) for k, v in prior.state_.items()}
    text = unit(novel.text)
    text = text - (1 - 1 / len(text)) * text.mean(axis=0)
    psi = unit(text @ state["label_map"] + state["label_bias"])
    assert_allclose(model.label_vectors_, psi, atol=1e-5)
    parts = unit(novel.X[:, 1:].astype(np.float64)) - model.part_mean_
    mapped = unit(parts @ state["part_map"] + state["part_bias"])
    local = learn(novel, prior, query_scoring="local")
    best = np.sort(mapped @ local.prototypes_.T, axis=1)[:, -5:]
    logits = 20 * (1 - np.sqrt(2 - 2 * best)).mean(axis=1)
    expected = local.slope_ * logits + local.biases_
    assert_allclose(local.decision_function(novel.X), expected, rtol=1e-3, atol=1e-3)
    counts = np.array([0.0, 1.0, 2.0, 5.0])
    level, slope = state["share"][0], np.exp(state["share"][1])
    expected = expit(level - slope * np.log([1, 1, 2, 5]))
    expected[0] = 1
    assert_allclose(prior.text_shares(counts), expected, rtol=1e-6)
    assert prior.text_shares(counts.astype(np.float32)).dtype == np.float32


# Frozen


def test_a_fitted_prior_is_its_own_clone(base, prior):
    assert clone(prior) is prior
    model = MultiLabelPrototypeClassifier(prior=prior)
    assert clone(model).prior is prior
    fresh = MultiLabelPrototypePrior(interaction=["gate"], n_episodes=3)
    copied = clone(fresh)
    assert copied is not fresh
    assert copied.interaction is not fresh.interaction
    assert copied.get_params() == fresh.get_params()
    assert not hasattr(copied, "state_")


def test_a_clone_of_an_unfitted_prior_keeps_callbacks_and_requests():
    monitor = ProgressBar()
    fresh = MultiLabelPrototypePrior().set_callbacks(monitor)
    with sklearn.config_context(enable_metadata_routing=True):
        fresh.set_fit_request(label_features=True)
        copied = clone(fresh)
    assert copied._skl_callbacks == fresh._skl_callbacks
    assert copied.get_metadata_routing().fit.requests["label_features"] is True


def test_a_fitted_prior_takes_no_parameters(prior):
    for frozen in (prior, MultiLabelPrototypeClassifier(prior=prior)):
        name = "n_select" if frozen is prior else "prior__n_select"
        with pytest.raises(ValueError, match="frozen.*n_select"):
            frozen.set_params(**{name: 2})
    assert prior.set_params() is prior
    assert prior.n_select == 5
    fresh = MultiLabelPrototypePrior().set_params(n_select=2)
    assert fresh.n_select == 2


def test_fitting_novel_labels_leaves_the_prior_alone(prior, novel):
    before = pickle.dumps(prior)
    learn(novel, prior)
    learn(novel, prior, pooling="agreement", query_scoring="both")
    search = GridSearchCV(
        MultiLabelPrototypeClassifier(novel.text, prior=prior),
        {"n_select": [1, 3], "text_weight": ["auto", 0.5]},
        scoring=mean_average_precision_scorer,
        cv=MultilabelStratifiedKFold(2),
        error_score="raise",
    ).fit(novel.X, novel.Y)
    assert pickle.dumps(prior) == before
    assert search.best_estimator_.prior is prior
    assert 0 <= search.best_score_ <= 1


def test_the_scale_is_that_of_the_prior(base, novel):
    prior = train(base, scale=7.0, n_episodes=1)
    one, other = learn(novel, prior), learn(novel, prior, scale=30.0)
    assert_array_equal(one.explain(novel.X), other.explain(novel.X))


# Saved


def test_save_and_load(prior, novel, tmp_path):
    path = tmp_path / "prior.safetensors"
    prior.save(path)
    loaded = MultiLabelPrototypePrior.load(str(path))
    assert_same_state(loaded.state_, prior.state_)
    for name in ("loss_curve_", "validation_scores_", "n_iter_", "best_episode_"):
        assert getattr(loaded, name) == getattr(prior, name)
    for name in ("interaction", "residual", "n_heads", "scale", "selection"):
        assert np.array_equal(getattr(loaded, name), getattr(prior, name))
    assert clone(loaded) is loaded
    one, other = learn(novel, prior), learn(novel, loaded)
    for output in OUTPUTS:
        assert_array_equal(
            getattr(one, output)(novel.X), getattr(other, output)(novel.X)
        )
    loaded.save(path)
    assert_same_state(MultiLabelPrototypePrior.load(path).state_, prior.state_)
    assert os.listdir(tmp_path) == ["prior.safetensors"]


def test_pickle(prior, novel):
    copied = pickle.loads(pickle.dumps(prior))
    assert_same_state(copied.state_, prior.state_)
    assert_array_equal(
        learn(novel, copied).predict_proba(novel.X),
        learn(novel, prior).predict_proba(novel.X),
    )
    for value in vars(prior).values():
        assert not type(value).__module__.startswith("torch")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(prior, tmp_path, monkeypatch, step):
    path = tmp_path / "prior.safetensors"
    path.write_bytes(b"the old one")

    def fail(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match="no space left"):
            prior.save(path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["prior.safetensors"]
    prior.save(path)
    assert_same_state(MultiLabelPrototypePrior.load(path).state_, prior.state_)


def read_back(path):
    with safe_open(path, "numpy") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, file.metadata()


def test_files_that_hold_no_prior(prior, tmp_path):
    path = tmp_path / "saved"
    with pytest.raises(OSError, match="saved"):
        MultiLabelPrototypePrior.load(path)
    with pytest.raises(OSError, match="Is a directory"):
        MultiLabelPrototypePrior.load(tmp_path)
    for content in (b"", b"not a prior", b"\xff" * 100, pickle.dumps(prior)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="saved is no safetensors file"):
            MultiLabelPrototypePrior.load(path)
    for metadata in (None, {"format": "pt"}, {"skfewshot_prior": "0"}):
        save_file({"weight": np.ones(3)}, path, metadata)
        with pytest.raises(ValueError, match="saved is no prior"):
            MultiLabelPrototypePrior.load(path)


@pytest.mark.parametrize("change", ["shape", "missing", "extra", "nan", "width"])
def test_arrays_that_are_not_those_of_the_prior(prior, tmp_path, change):
    path = tmp_path / "saved"
    prior.save(path)
    state, metadata = read_back(path)
    if change == "shape":
        state["part_map"] = state["part_map"][:, :-1].copy()
    elif change == "missing":
        del state["label_bias"]
    elif change == "extra":
        state["other"] = np.ones(2)
    elif change == "nan":
        state["part_bias"][0] = np.nan
    else:
        about = json.loads(metadata["about"])
        about["fitted"]["width_"] = 12
        metadata["about"] = json.dumps(about)
    save_file(state, path, metadata)
    with pytest.raises(ValueError, match="saved holds arrays"):
        MultiLabelPrototypePrior.load(path)


@pytest.mark.parametrize(
    "about",
    [
        None,
        "{",
        "[]",
        "{}",
        '{"parameters": {"power": 3}, "fitted": {}}',
        '{"parameters": {}, "fitted": {}}',
        '{"parameters": {"interaction": 3}, "fitted": {"width_": 16}}',
        '{"parameters": {"n_heads": 0}, "fitted": {"width_": "wide"}}',
    ],
)
def test_descriptions_that_are_not_those_of_a_prior(prior, tmp_path, about):
    path = tmp_path / "saved"
    prior.save(path)
    state, metadata = read_back(path)
    if about is None:
        del metadata["about"]
    else:
        metadata["about"] = about
    save_file(state, path, metadata)
    with pytest.raises(ValueError, match="saved"):
        MultiLabelPrototypePrior.load(path)


def test_an_unfitted_prior_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        MultiLabelPrototypePrior().save(tmp_path / "prior")
    assert os.listdir(tmp_path) == []


# Callbacks


class Recorder:
    """A callback that notes each task, and stops training after some."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.begun, self.ended, self.fitted, self.events = 0, 0, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.begun += context.task_name == "episode"

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name != "episode":
            self.events.append("end")
            return False
        self.ended += 1
        self.fitted.append(fitted_estimator)
        return self.ended == self.stop_after


def test_callbacks_see_every_episode(base, novel, prior):
    quiet, recorder = prior, Recorder()
    prior = MultiLabelPrototypePrior(**SMALL).set_callbacks(recorder)
    prior.fit(base.X, base.Y, label_features=base.text)
    assert (recorder.begun, recorder.ended) == (prior.n_iter_, prior.n_iter_)
    assert recorder.events == ["setup", "end", "teardown"]
    # The default is all steps.
    assert_same_state(prior.state_, quiet.state_)
    # What a callback is given is a prior that works, as it was after the episode.
    maps = [seen.state_["part_map"] for seen in recorder.fitted]
    assert np.abs(maps[1] - maps[0]).max() > 0
    if prior.best_episode_:
        best = recorder.fitted[prior.best_episode_ - 1]
        assert_same_state(best.state_, prior.state_)
    for seen in recorder.fitted[:2]:
        assert np.isfinite(learn(novel, seen).predict_proba(novel.X)).all()


def test_alignment_and_penalty_are_added_to_the_loss(base):
    plain = train(base, n_episodes=2, map_penalty=0)
    aligned = train(base, n_episodes=2, map_penalty=0, alignment_weight=1.0)
    assert aligned.loss_curve_[0] > plain.loss_curve_[0]
    recorder = Recorder()
    params = {**SMALL, "n_episodes": 2, "map_penalty": 0.5}
    bound = MultiLabelPrototypePrior(**params).set_callbacks(recorder)
    bound.fit(base.X, base.Y, label_features=base.text)
    # The first step is the same, as a map that has not changed costs nothing.
    state = recorder.fitted[0].state_
    start = np.eye(16)
    changes = ((state["part_map"] - start) ** 2).sum() + (state["whole_map"] ** 2).sum()
    changes = changes + 10 * ((state["label_map"] - start) ** 2).sum()
    found = bound.loss_curve_[1] - plain.loss_curve_[1]
    assert_allclose(found, 0.5 * changes, rtol=1e-2)


def test_a_callback_stops_the_training(base):
    recorder = Recorder(stop_after=3)
    prior = MultiLabelPrototypePrior(**SMALL).set_callbacks(recorder)
    prior.fit(base.X, base.Y, label_features=base.text)
    assert prior.n_iter_ == len(prior.loss_curve_) == recorder.ended == 3


def test_progress_bar(base, capsys):
    prior = MultiLabelPrototypePrior(**{**SMALL, "n_episodes": 2})
    prior.set_callbacks(ProgressBar())
    prior.fit(base.X, base.Y, label_features=base.text)
    assert "MultiLabelPrototypePrior" in capsys.readouterr().out


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"interaction": "gate"}, "interaction"),
        ({"interaction": ("gates",)}, r"interaction=\('gates',\) .*'convolution'"),
        ({"shots": (0, 5)}, r"shots=\(0, 5\)"),
        ({"shots": (5, 1)}, r"shots=\(5, 1\)"),
        ({"shots": (1, 2, 3)}, r"shots=\(1, 2, 3\)"),
        ({"shots": (1, 2.5)}, r"shots=\(1, 2.5\)"),
        ({"shots": 5}, "shots"),
        ({"n_way": 1}, "n_way"),
        ({"n_episodes": 0}, "n_episodes"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"selection": "best"}, "selection"),
        ({"query_scoring": "best"}, "query_scoring"),
        ({"residual": "yes"}, "residual"),
        ({"map_penalty": -1}, "map_penalty"),
        ({"device": "abacus"}, "device='abacus'"),
    ],
    ids=str,
)
def test_parameters(base, params, message):
    with pytest.raises(ValueError, match=message):
        train(base, **params)


def test_base_sets_that_teach_nothing(base):
    prior = MultiLabelPrototypePrior(**SMALL)
    with pytest.raises(ValueError, match="label_features"):
        prior.fit(base.X, base.Y)
    with pytest.raises(ValueError, match="label_features"):
        prior.fit(base.X, base.Y, label_features=None)
    with pytest.raises(ValueError, match="X_base has 60 images, .* 59 rows"):
        prior.fit(base.X, base.Y[:-1], label_features=base.text)
    with pytest.raises(ValueError, match="Y_base has 3 labels .* at least 4"):
        prior.fit(base.X, base.Y[:, :3], label_features=base.text[:3])
    once = np.eye(60, 8, dtype=int)
    with pytest.raises(ValueError, match="Y_base has 0 labels"):
        prior.fit(base.X, once, label_features=base.text)
    assert not hasattr(prior, "state_")


def test_a_prior_of_another_width(prior, planted):
    wide = planted(12, dtype=np.float32)
    with pytest.raises(ValueError, match="prior .* width 16, .* width 32"):
        MultiLabelPrototypeClassifier(wide.text, prior=prior).fit(wide.X, wide.Y)


def test_a_prior_needs_texts_and_to_be_fitted(prior, novel):
    for features in (None, "auto"):
        model = MultiLabelPrototypeClassifier(features, prior=prior)
        with pytest.raises(ValueError, match="prior needs label vectors"):
            model.fit(novel.X, novel.Y)
    unfitted = MultiLabelPrototypePrior()
    with pytest.raises(NotFittedError, match="MultiLabelPrototypePrior"):
        learn(novel, unfitted)


@pytest.mark.parametrize("scoring", ["competitive", "local", "global", "both"])
@pytest.mark.parametrize("n_labels", [1, 5])
def test_training_scores_queries_as_prediction_does(unit, scoring, n_labels):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(7, 9, 16))
    array[:3, 6:] = np.nan
    tokens = split_tokens(array)
    scorer = Scorer(20.0, scoring, 4, background=-3.0, sharpness=1.7)
    means = FeatureMap(*(rng.normal(size=(2, 16)) / 10))
    support = Support(tokens, np.zeros((7, n_labels)), np.ones(7))
    vectors = unit(rng.normal(size=(n_labels, 16)))
    base = BaseSet(support, vectors, means, scorer, "lcm", torch.device("cpu"))
    network = PriorNetwork(
        16,
        steps=(),
        n_heads=4,
        residual=True,
        share=0.6,
        calibration=(1.0, 0.0, -3.0, np.log(1.7)),
    ).double()
    prototypes = unit(rng.normal(size=(n_labels, 16)))
    with torch.no_grad():
        for parameter in (network.part_map, network.whole_map, network.whole_bias):
            parameter.add_(0.2 * torch.from_numpy(rng.normal(size=parameter.shape)))
        queries = map_features(network, base, np.arange(7))
        found = network.query_scores(queries, torch.from_numpy(prototypes), scorer)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    feature_map = replace(means, **image_maps(state, True, float))
    expected = score(tokens, feature_map, prototypes, scorer)
    assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_training_makes_prototypes_as_fitting_does(unit):
    rng = np.random.default_rng(0)
    network = PriorNetwork(8, steps=(), n_heads=4, residual=True, share=0.3).double()
    with torch.no_grad():
        for parameter in (network.label_map, network.label_bias):
            parameter.add_(0.2 * torch.from_numpy(rng.normal(size=parameter.shape)))
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    vectors, counts = rng.normal(size=(3, 8)), np.array([1.0, 4.0, 0.0])
    psi = map_labels(state, vectors)
    said = Pairs(
        np.array([0, 1]), np.array([0, 1]), rng.normal(size=(2, 8)), counts[:2]
    )
    sums, _ = label_sums(said, 3)
    with torch.no_grad():
        of_network = network.map_labels(torch.from_numpy(vectors))
        found, given = (
            network.prototypes(*map(torch.from_numpy, (sums, counts, psi)), share)
            for share in (None, 0.2)
        )
    assert_allclose(of_network, psi, rtol=1e-9)
    # At one shot the share that it was given.
    shares = learned_text_shares(state, counts)
    assert_allclose(shares[[0, 2]], [0.3, 1.0], rtol=1e-6)
    assert_allclose(found, mix(said, psi, shares), rtol=1e-6)
    assert_allclose(given, mix(said, psi, np.array([0.2, 0.2, 1.0])), rtol=1e-6)


@pytest.mark.parametrize("residual", [True, False])
def test_what_the_interaction_says_is_added_or_takes_the_place(residual):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PriorNetwork(
            8, steps=("gate",), n_heads=2, residual=residual, share=0.5
        )
        mean, psi, w = torch.randn(3, 4, 8)
        features = torch.randn(4, 5, 8)
    seen = features, torch.ones(4, 5, dtype=bool), psi, w, torch.arange(4)
    with torch.no_grad():
        said = network.interaction(*seen) / np.sqrt(8)
        if residual:
            assert_allclose(network.pair_vectors(mean, *seen), mean)
            network.interaction_weight.fill_(0.7)
            said = mean + 0.7 * said
        assert_allclose(network.pair_vectors(mean, *seen), said, rtol=1e-5, atol=1e-6)


def slow_losses(network, base, episode):
    """Compute the documented losses, a label and a query at a time."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    own = base.support[episode.support]
    own = Support(own.tokens, own.indicator[:, episode.labels], own.weight)
    psi = map_labels(state, centre_labels(base.vectors[episode.labels]))
    feature_map = replace(base.means, **image_maps(state, True, float))
    scorer = base.scorer
    selection = select(
        own, feature_map, psi, method="lcm", n_select=scorer.n_top, scale=20.0
    )
    mapped = own.mapped(feature_map)
    pairs = make_pairs(mapped, selection, psi, scale=20.0)
    shares = learned_text_shares(state, label_sums(pairs, len(psi))[1])
    slope, shift, level, log_sharpness = state["calibration"]
    scorer = replace(scorer, background=level, sharpness=np.exp(log_sharpness))
    queries = base.support[episode.query]
    scores = score(queries.tokens, feature_map, mix(pairs, psi, shares), scorer)

    def loss(logits, truth):
        p = expit(logits)
        return -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()

    distance = np.linalg.norm(mapped.tokens.whole[:, None] - psi, axis=2)
    return (
        loss(slope * scores + shift, queries.indicator[:, episode.labels]),
        loss(20 * (1 - distance), own.indicator),
    )


def test_the_losses_of_an_episode_are_the_documented_equations(base, unit):
    rng = np.random.default_rng(0)
    indicator = base.Y.astype(float)
    support = Support(split_tokens(base.X.astype(float)), indicator, np.ones(60))
    means = FeatureMap(*feature_means(support.tokens, support.weight))
    scorer = Scorer(20.0, "competitive", 3)
    vectors = unit(base.text.astype(float))
    data = BaseSet(support, vectors, means, scorer, "lcm", torch.device("cpu"))
    network = PriorNetwork(
        16,
        steps=(),
        n_heads=4,
        residual=True,
        share=0.4,
        calibration=(0.8, 0.5, -2.0, 0.3),
    ).double()
    with torch.no_grad():
        for parameter in (network.part_map, network.label_map):
            parameter.add_(0.1 * torch.from_numpy(rng.normal(size=parameter.shape)))
    sizes = Sizes(5, (2, 2), 10)
    episode = draw_episode(rng, indicator, np.arange(8), np.arange(60), sizes)
    with torch.no_grad():
        found = episode_losses(network, data, episode)
    assert_allclose(found, slow_losses(network, data, episode), rtol=1e-6)
    # Noise is for the interaction alone.
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noisy = episode_losses(network, data, episode, 1.0, noise)
    assert_allclose(noisy, found, rtol=1e-9)
    # And is as long as it is said to be, beside label vectors of length one.
    w, seen = torch.from_numpy(vectors[episode.labels]), []
    clean = torch.stack([network.map_labels(w - 0.8 * w.mean(0)), w]).detach()
    # What the gate and the kernels see; the attention sees labels as they are.
    network.pair_vectors = lambda mean, *p: seen.append((p[5], p[3])) or mean
    for length in (0.5, 2.0):
        seen.clear()
        with torch.no_grad():
            for _ in range(40):
                episode_losses(network, data, episode, length, noise)
        cosine = torch.stack([(torch.stack(pair) * clean).sum(2) for pair in seen])
        assert_allclose(cosine.mean((0, 2)), 1 / np.hypot(1, length), atol=0.06)


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
def test_average_precision_is_that_of_scikit_learn(seed, n):
    rng = np.random.default_rng(seed)
    truth, scores = rng.integers(0, 2, size=n), rng.integers(0, 5, size=n) / 4
    truth[rng.integers(n)] = 1
    expected = average_precision_score(truth, scores)
    assert average_precision(truth, scores) == pytest.approx(expected)


def test_images_of_labels_kept_aside_are_not_learned_from():
    indicator = (np.random.default_rng(0).random((60, 12)) < 0.1).astype(np.float32)
    rng = np.random.default_rng(1)
    (labels, images), (labels_aside, images_aside) = split_labels(indicator, 0.25, rng)
    assert len(labels_aside) == 3
    assert not set(labels) & set(labels_aside)
    assert not indicator[np.ix_(images, labels_aside)].any()
    assert indicator[np.ix_(images_aside, labels_aside)].any(axis=1).all()
    assert sorted([*images, *images_aside]) == list(range(60))


def test_heads_that_do_not_divide_the_width_are_fewer(base, prior):
    seven = train(base, interaction=ALL_STEPS, n_heads=7)
    assert_array_equal(seven.state_["part_map"], prior.state_["part_map"])


def test_a_failed_fit_leaves_the_prior_as_it_was(base, prior):
    state, width = prior.state_, prior.width_
    with pytest.raises(ValueError, match="label_features"):
        prior.fit(base.X[:, :, :8], base.Y, label_features=base.text[:3])
    assert prior.state_ is state
    assert prior.width_ == width
    assert prior.n_features_in_ == width


def test_few_images_train_or_are_refused_clearly(base):
    refused = 0
    for n in range(4, 24, 4):
        prior = MultiLabelPrototypePrior(**{**SMALL, "n_episodes": 2})
        try:
            prior.fit(base.X[:n], base.Y[:n], label_features=base.text)
        except ValueError as error:
            assert str(error).startswith("Y_base has")
            refused += 1
        else:
            assert np.isfinite(prior.loss_curve_).all()
    assert refused < 4


def test_steps_as_an_array_serve_the_classifier(base, novel):
    prior = train(base, interaction=np.array(["gate", "attention"]), n_episodes=1)
    assert np.isfinite(learn(novel, prior).decision_function(novel.X)).all()


def test_a_rate_that_is_too_large_is_named(base):
    with pytest.raises(ValueError, match="learning_rate"):
        train(base, learning_rate=1e30, n_episodes=10, patience=10)
