"""
Can the probabilities be believed?
==================================

A classifier says 80 %. Of all the images about which it says so, are four in five
right? Then it is *calibrated*, and its probabilities can decide: what to accept, what
to show to a person, what it costs to be wrong.

With a few images a class this is not a matter of course. There is next to nothing to
calibrate on, and a method has to get it right by itself.
"""

# %%
# Four images a class
# -------------------
# 28 kinds of object, rendered with noise and clutter so that there are errors to be
# unsure of, and the small model of the package.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer
from skfewshot.datasets import BASE_KINDS, make_object_images

look = {"kinds": BASE_KINDS, "clutter": 1.0, "noise": 0.15}
pool = make_object_images(4, random_state=0, **look)
test = make_object_images(25, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_test = clip.fit_transform(pool.images), clip.transform(test.images)

# %%
# Reliability curves
# ------------------
# Confidence is the largest probability of an image. For each level of it the curve has
# the share of predictions that are right; the diagonal is what one wants. Below it a
# classifier is too sure of itself, above it too modest. It is scikit-learn's
# :class:`~sklearn.calibration.CalibrationDisplay`, given "was it right?" as the truth.
# The number is the expected calibration error, the mean distance to the diagonal
# (:func:`skfewshot.metrics.expected_calibration_error`).

from sklearn.calibration import CalibrationDisplay
from sklearn.linear_model import LogisticRegression

from skfewshot import CLAPClassifier, CMMClassifier, TipAdapterClassifier
from skfewshot.metrics import expected_calibration_error

models = {
    "CMM": CMMClassifier(),
    "Tip-Adapter-F": TipAdapterClassifier(train_keys=True),
    "CLAP": CLAPClassifier(),
    "linear probe, C=1": LogisticRegression(),
    "linear probe, C=10": LogisticRegression(C=10, max_iter=1000),
    "linear probe, C=1000": LogisticRegression(C=1000, max_iter=1000),
}
fig, axes = plt.subplots(
    2, 3, figsize=(9.5, 6.6), sharex=True, sharey=True, layout="constrained"
)
errors = {}
for ax, (name, model) in zip(axes.flat, models.items(), strict=True):
    probabilities = model.fit(X, pool.labels).predict_proba(X_test)
    errors[name] = expected_calibration_error(test.labels, probabilities)
    right = model.predict(X_test) == test.labels
    confidence = probabilities.max(axis=1)
    CalibrationDisplay.from_predictions(
        right, confidence, n_bins=8, strategy="quantile", ax=ax, color="#0072B2"
    )
    share = np.full(len(confidence), 1 / len(confidence))
    bins = np.linspace(0, 1, 21)
    ax.hist(confidence, bins, weights=share, color="0.8", zorder=0)
    ax.set(xlabel="", ylabel="", xlim=(0, 1), ylim=(0, 1))
    ax.set_title(f"{name}\nright: {right.mean():.0%}, error {errors[name]:.3f}")
    ax.get_legend().remove()
fig.supxlabel("Confidence (grey: how often it occurs)")
fig.supylabel("Share of predictions that are right")
plt.show()

# %%
# The linear probe is as sure as its ``C`` makes it, and ``C`` is usually chosen for
# accuracy, or not at all. The three above it start from the scale of logits that the
# CLIP model was trained with; what they make of it differs.
#
# Does it hold with fewer and with more images?
# ---------------------------------------------

from skfewshot.model_selection import sample_support

more = make_object_images(16, random_state=2, **look)
X_more = clip.transform(more.images)
shots = [2, 4, 8, 16]
curves = {name: [] for name in models}
for k in shots:
    draws = [sample_support(more.labels, k, random_state=seed) for seed in range(2)]
    for name, model in models.items():
        curves[name].append(
            np.mean(
                [
                    expected_calibration_error(
                        test.labels,
                        model.fit(X_more[r], more.labels[r]).predict_proba(X_test),
                    )
                    for r in draws
                ]
            )
        )

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(8.5, 4), layout="constrained")
for (name, curve), marker in zip(curves.items(), "osD^vP", strict=True):
    ax.plot(shots, curve, marker=marker, label=name)
ax.set_xscale("log", base=2)
ax.set_xticks(shots, shots)
ax.set(xlabel="Images a class", ylabel="Expected calibration error")
ax.set_ylim(bottom=0)
ax.grid(alpha=0.3)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
# With your own images
# --------------------
# - Compare classifiers on the same images and with the same bins: with few images the
#   error is too large by chance alone, also that of a perfect classifier.
# - :class:`~sklearn.calibration.CalibratedClassifierCV` can mend a classifier that is
#   badly off, but it takes images away from the fit: with a handful of images a class
#   try the defaults first. ``method="temperature"`` fits one number only.
# - Probabilities are about images like those of the support, of one of its classes.
#   Images of something else get confident names too: see the example on thresholds.

# sphinx_gallery_thumbnail_number = 1
