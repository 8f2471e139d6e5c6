"""The published system: its settings, and that training and prediction agree on it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn.base import clone

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot._rows import unit_rows
from skfewshot.multilabel._episodes import (
    BaseSet,
    Sizes,
    draw_episode,
    episode_losses,
    episode_scores,
)
from skfewshot.multilabel._interaction import PriorNetwork
from skfewshot.multilabel._prior_state import image_maps, map_labels
from skfewshot.multilabel._reading import split_tokens
from skfewshot.multilabel._scoring import Scorer
from skfewshot.multilabel._selection import select
from skfewshot.multilabel._tokens import FeatureMap, Support

SMALL = {
    "n_components": 24,
    "mlp_width": 20,
    "n_episodes": 4,
    "eval_every": 2,
    "random_state": 0,
}
WORLD = {"d": 16, "n_parts": 6, "most_labels": 2, "noise": 0.4}
LABEL_WIDTH = 9


@pytest.fixture(scope="module")
def base(planted):
    return planted(60, n_labels=8, world=1, dtype=np.float32, **WORLD)


@pytest.fixture(scope="module")
def novel(planted):
    return planted(9, n_labels=4, world=2, dtype=np.float32, **WORLD)


def words(data):
    return data.text @ np.random.default_rng(3).normal(size=(16, LABEL_WIDTH))


@pytest.fixture(scope="module")
def prior(base):
    prior = MultiLabelPrototypePrior.published(**SMALL)
    return prior.fit(base.X, base.Y, words(base))


def test_every_published_setting_by_one_name():
    prior = MultiLabelPrototypePrior.published(n_episodes=7, random_state=3)
    expected = {
        "interaction": ("gate", "convolution", "attention"),
        "residual": False,
        "n_heads": 8,
        "mlp_width": 1024,
        "n_components": 512,
        "selection": "lcm_paper",
        "query_scoring": "global",
        "scale": 20.0,
        "n_way": None,
        "shots": (1, 1),
        "query_shots": 4,
        "learning_rate": 1e-4,
        "map_penalty": 0.003,
        "alignment_weight": 1.0,
        "label_noise": 10.0,
        "n_episodes": 7,
        "random_state": 3,
    }
    params = prior.get_params()
    assert {name: params[name] for name in expected} == expected
    assert clone(prior).get_params() == params
    with pytest.raises(TypeError, match="unexpected keyword"):
        MultiLabelPrototypePrior.published(power=3)


def test_the_network_is_the_papers(prior):
    shapes = {name: value.shape for name, value in prior.state_.items()}
    assert shapes["part_map"] == shapes["whole_map"] == (16, 24)
    assert shapes["label_map"] == (LABEL_WIDTH, 24)
    assert shapes["interaction.mlp.0.weight"] == (20, 24)
    assert shapes["interaction.kernel_in.weight"] == (24 * 64, LABEL_WIDTH)
    assert not {"share", "interaction_weight"} & set(shapes)
    # The logit is not trained.
    assert_array_equal(prior.state_["calibration"], [1, 0, 0, 0])
    assert np.abs(prior.state_["part_map"] - prior.state_["whole_map"]).max() > 1e-4
    assert_array_equal(prior.text_shares(np.array([0.0, 1.0, 5.0])), [1, 0, 0])


@pytest.mark.parametrize("n_components", [10, 16, 24])
def test_training_starts_as_a_passage_for_the_features(base, n_components):
    """Untrained, prototypes are nearest to the vectors of their own labels."""
    prior = MultiLabelPrototypePrior.published(
        **{**SMALL, "n_components": n_components, "n_episodes": 1},
        learning_rate=1e-12,
    ).fit(base.X, base.Y, base.text)
    model = MultiLabelPrototypeClassifier(base.text, prior=prior).fit(base.X, base.Y)
    nearest = (model.prototypes_ @ model.label_vectors_.T).argmax(axis=1)
    assert (nearest == np.arange(8)).mean() > 0.4  # chance is 0.125


def test_images_of_many_labels_leave_some_to_learn_from(base):
    """With a label kept aside that nearly all images have, there would be none."""
    common = np.ones((len(base.Y), 3), dtype=int)
    common[:2] = 0
    Y = np.column_stack([base.Y, common])
    text = np.vstack([base.text, base.text[:3] + base.text[3:6]])
    for seed in range(3):
        prior = MultiLabelPrototypePrior.published(**{**SMALL, "random_state": seed})
        assert prior.fit(base.X, Y, text).n_iter_ == 4


def test_a_classifier_does_as_its_prior(prior, novel):
    model = MultiLabelPrototypeClassifier(words(novel), prior=prior)
    model.fit(novel.X, novel.Y)
    told = MultiLabelPrototypeClassifier(
        words(novel),
        prior=prior,
        selection="lcm_paper",
        n_select=5,
        pooling="agreement",
        text_weight=0.0,
        query_scoring="global",
    ).fit(novel.X, novel.Y)
    assert_array_equal(
        model.decision_function(novel.X), told.decision_function(novel.X)
    )
    assert model.text_weight_ == 0
    # What is set is set.
    other = clone(told).set_params(text_weight=1.0).fit(novel.X, novel.Y)
    assert_allclose(other.prototypes_, other.label_vectors_, rtol=1e-6)


def test_a_residual_prior_is_followed_too(base, novel):
    prior = MultiLabelPrototypePrior(
        n_episodes=1, n_way=4, n_select=2, query_scoring="local", selection="text"
    ).fit(base.X, base.Y, words(base))
    model = MultiLabelPrototypeClassifier(words(novel), prior=prior)
    model.fit(novel.X, novel.Y)
    told = clone(model).set_params(n_select=2, query_scoring="local", selection="text")
    told.set_params(pooling="mean").fit(novel.X, novel.Y)
    assert_array_equal(model.prototypes_, told.prototypes_)
    assert_array_equal(model.explain(novel.X), told.explain(novel.X))
    assert all(len(chosen) == 2 * len(set(chosen[:, 0])) for chosen in model.selected_)


def test_a_label_without_images_keeps_its_vector(prior, novel):
    Y = novel.Y.copy()
    Y[:, 2] = 0
    model = MultiLabelPrototypeClassifier(words(novel), prior=prior).fit(novel.X, Y)
    assert_allclose(model.prototypes_[2], model.label_vectors_[2], rtol=1e-6)


@pytest.mark.parametrize("steps", [(), ("gate", "convolution", "attention")], ids=str)
def test_prediction_is_the_paper_by_hand(base, novel, steps):
    """Nothing is centred; images are weighted by agreement; queries by the global."""
    prior = MultiLabelPrototypePrior.published(**SMALL, interaction=steps)
    prior.fit(base.X.astype(float), base.Y, words(base))
    model = MultiLabelPrototypeClassifier(words(novel), prior=prior)
    model.fit(novel.X.astype(float), novel.Y)
    state = {k: v.astype(float) for k, v in prior.state_.items()}
    X = unit_rows(novel.X.astype(float))
    whole = unit_rows(X[:, 0] @ state["whole_map"] + state["whole_bias"])
    parts = unit_rows(X[:, 1:] @ state["part_map"] + state["part_bias"])
    w = unit_rows(words(novel))
    psi = unit_rows(w @ state["label_map"] + state["label_bias"])
    assert_allclose(model.label_vectors_, psi, rtol=1e-5)
    network = PriorNetwork(
        24,
        token_width=16,
        label_width=LABEL_WIDTH,
        mlp_width=20,
        steps=steps,
        n_heads=8,
        residual=False,
    ).double()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    prototypes = []
    for label in range(4):
        chosen = model.selected_[label]
        images = np.unique(chosen[:, 0])
        said = []
        for image in images:
            own = parts[image, chosen[chosen[:, 0] == image, 1]]
            logits = 20 * (1 - np.linalg.norm(own - psi[label], axis=1))
            z = softmax(logits) @ own
            if steps:
                arrays = own[None], np.ones((1, len(own)), bool), psi, w, [label]
                with torch.no_grad():
                    z = network.interaction(*map(torch.tensor, arrays))[0].numpy()
            said.append(z)
        agreement = 20 * (1 - np.linalg.norm(whole[images] - psi[label], axis=1))
        prototypes.append(softmax(agreement) @ np.array(said))
    prototypes = unit_rows(np.array(prototypes))
    assert_allclose(model.prototypes_, prototypes, rtol=1e-4, atol=1e-5)
    logits = 20 * (1 - np.linalg.norm(whole[:, None] - prototypes, axis=2))
    expected = model.slope_ * logits + model.biases_
    assert_allclose(model.decision_function(novel.X), expected, rtol=1e-3, atol=1e-3)


def test_training_scores_and_loses_as_the_classifier_would(base):
    """In an episode the support is a few-shot problem like any other."""
    rng = np.random.default_rng(0)
    indicator = base.Y.astype(float)
    support = Support(split_tokens(base.X.astype(float)), indicator, np.ones(60))
    means = FeatureMap(np.zeros(16), np.zeros(16))
    vectors = unit_rows(words(base).astype(float))
    scorer = Scorer(20.0, "global", 5)
    device = torch.device("cpu")
    data = BaseSet(support, vectors, means, scorer, "lcm_paper", device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PriorNetwork(
            24,
            token_width=16,
            label_width=LABEL_WIDTH,
            steps=(),
            n_heads=8,
            residual=False,
        ).double()
    sizes = Sizes(None, (1, 1), 48, 4)
    episode = draw_episode(rng, indicator, np.arange(8), np.arange(60), sizes)
    assert len(episode.labels) == 8
    assert (indicator[episode.support].sum(axis=0) >= 1).all()
    assert (indicator[episode.query].sum(axis=0) >= 4).all()
    assert len(episode.support) <= 8
    assert len(episode.query) <= 32
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    psi = map_labels(state, vectors)
    feature_map = replace(means, **image_maps(state, False, float))
    own, asked = support[episode.support], support[episode.query]
    selection = select(own, feature_map, psi, "lcm_paper", 5, 20.0)
    mapped = own.mapped(feature_map).tokens
    prototypes = np.zeros((8, 24))
    for label in range(8):
        vectors_, logits = [], []
        # One image of a label, as there is one shot.
        for pair in np.flatnonzero(selection.labels == label)[:1]:
            image = selection.images[pair]
            parts = mapped.parts[image, selection.chosen[pair][selection.valid[pair]]]
            shares = softmax(20 * (1 - np.linalg.norm(parts - psi[label], axis=1)))
            vectors_.append(shares @ parts)
            apart = np.linalg.norm(mapped.whole[image] - psi[label])
            logits.append(20 * (1 - apart))
        prototypes[label] = softmax(logits) @ np.array(vectors_)
    prototypes = unit_rows(prototypes)
    query = feature_map(asked.tokens).whole
    scores = 20 * (1 - np.linalg.norm(query[:, None] - prototypes, axis=2))
    [found] = episode_scores(network, data, episode)
    assert_allclose(found, scores, rtol=1e-6)

    def loss(logits, truth):
        p = expit(logits)
        return -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()

    aligned = 20 * (1 - np.linalg.norm(mapped.whole[:, None] - psi, axis=2))
    with torch.no_grad():
        losses = episode_losses(network, data, episode)
    expected = loss(scores, asked.indicator), loss(aligned, own.indicator)
    assert_allclose([float(value) for value in losses], expected, rtol=1e-6)


def test_nothing_but_the_losses_of_labels_to_learn_from_trains_it(base):
    """No text share and no slope: the numbers move by the rate of Adam alone."""
    one = MultiLabelPrototypePrior.published(**{**SMALL, "n_episodes": 1})
    one.set_params(eval_every=1, patience=10, learning_rate=1e-30)
    start = one.fit(base.X, base.Y, words(base)).state_
    moved = MultiLabelPrototypePrior.published(**{**SMALL, "n_episodes": 3})
    moved.set_params(eval_every=1, patience=10, learning_rate=0.01)
    seen = []

    class Watch:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if context.task_name == "episode":
                seen.append(fitted_estimator.state_)

    moved.set_callbacks(Watch()).fit(base.X, base.Y, words(base))
    steps = [start, *seen]
    for before, after in pairwise(steps):
        change = np.abs(after["whole_map"] - before["whole_map"])
        assert 0 < change.max() < 0.11
        assert_array_equal(after["calibration"], before["calibration"])
    # Adam's first step is the rate, ten times that for maps, and it falls.
    assert np.abs(steps[1]["whole_map"] - start["whole_map"]).max() > 0.099
    assert np.abs(steps[3]["whole_map"] - steps[2]["whole_map"]).max() < 0.05


def test_saved_and_loaded(prior, novel, tmp_path):
    prior.save(tmp_path / "prior")
    loaded = MultiLabelPrototypePrior.load(tmp_path / "prior")
    assert (loaded.n_components, loaded.mlp_width, loaded.residual) == (24, 20, False)
    one, other = (
        MultiLabelPrototypeClassifier(words(novel), prior=p).fit(novel.X, novel.Y)
        for p in (prior, loaded)
    )
    assert_array_equal(one.predict_proba(novel.X), other.predict_proba(novel.X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2**40}, "n_components"),
        ({"mlp_width": 2.5}, "mlp_width"),
        ({"query_shots": 0}, "query_shots"),
    ],
)
def test_parameters(base, params, message):
    prior = MultiLabelPrototypePrior.published(**params)
    with pytest.raises(ValueError, match=message):
        prior.fit(base.X, base.Y, words(base))
