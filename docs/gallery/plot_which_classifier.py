"""
Which classifier, for how many images?
======================================

The library has a row of methods from the literature, and scikit-learn has the
logistic regression that everybody tries first. Which one should you take with one
image a class, and which with sixteen?

The picture for this is the *shot curve*: accuracy on images kept aside, by the number
of images a class. It is the learning curve of few-shot learning.
"""

# %%
# A task with room to err
# -----------------------
# 28 kinds of object, rendered with much noise and clutter, and the small model of the
# package. It was trained on objects of these kinds, as a real CLIP has met most things
# before. Embedding comes first and once; what follows works on the embeddings.

import warnings

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer
from skfewshot.datasets import BASE_KINDS, make_object_images

images, names = make_object_images(
    40, kinds=BASE_KINDS, clutter=1.0, noise=0.15, return_X_y=True, random_state=0
)
X = CLIPFeaturizer("tiny").fit_transform(images)

# %%
# A fair comparison
# -----------------
# :func:`~skfewshot.model_selection.shot_curve` draws supports of 1, 2, 4, ... images a
# class out of one part of the images and scores on the other. With the same
# ``random_state`` all methods see the same images. Each has one setting for all numbers
# of shots, its default, and nothing is tuned on the images that score.

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from skfewshot import (
    CLAPClassifier,
    CMMClassifier,
    GaussianDiscriminantClassifier,
    LPPlusPlusClassifier,
    ProKeRClassifier,
    TaskResClassifier,
    TipAdapterClassifier,
    ZeroShotClassifier,
)
from skfewshot.model_selection import shot_curve

# Of one image a class, scikit-learn asks if this is not a regression.
warnings.filterwarnings("ignore", message="The number of unique classes")
models = {
    "zero-shot": ZeroShotClassifier(),
    "linear probe": LogisticRegression(C=10, max_iter=1000),
    "Tip-Adapter": TipAdapterClassifier(),
    "Tip-Adapter-F": TipAdapterClassifier(train_keys=True),
    "GDA": GaussianDiscriminantClassifier(),
    "LP++": LPPlusPlusClassifier(),
    "CLAP": CLAPClassifier(),
    "TaskRes": TaskResClassifier(),
    "ProKeR": ProKeRClassifier(),
    "CMM": CMMClassifier(),
    "CMM, no text": CMMClassifier(text_features=None),
}
results = {
    name: shot_curve(
        model,
        X,
        names,
        shots=(1, 2, 4, 8, 16),
        cv=StratifiedShuffleSplit(n_splits=1, test_size=0.5, random_state=0),
        n_repeats=3,
        random_state=0,
    )
    for name, model in models.items()
}

# %%
# Where the names help
# --------------------
# :class:`~skfewshot.display.ShotCurveDisplay` draws such results, with the spread over
# the draws as a band. Three to begin with: the names alone, the images alone, and both.

from skfewshot.display import ShotCurveDisplay

fig, ax = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
for name in ["CMM", "CMM, no text", "linear probe", "zero-shot"]:
    result = results[name]
    ShotCurveDisplay(
        shots=result.shots,
        test_scores=result.test_scores,
        name=name,
        score_name="Accuracy",
    ).plot(ax=ax)
ax.set_title("28 kinds of object, rendered, small model")
plt.show()

# %%
# On the left, names are worth more than images: what has no text starts low. On the
# right images catch up. Read off where *your* number of images lies.
#
# All of them
# -----------
# The same as numbers, with the best of each column in bold. On the right is the time of
# a fit with 16 images a class, on the machine that built this page; where there is
# text, it includes the encoding of the names.

table = np.array([r.test_scores.mean(axis=1) for r in results.values()])
seconds = [np.median(r.fit_times[-1]) for r in results.values()]
columns = [f"{k} image{'s' * (k > 1)}" for k in (1, 2, 4, 8, 16)]
order = table.mean(axis=1).argsort()[::-1]

fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
ax.imshow(table[order], cmap="Blues", aspect="auto", vmin=0.2, vmax=0.9)
best = table.max(axis=0)
for row, method in enumerate(order):
    for column, value in enumerate(table[method]):
        bold = "bold" if value == best[column] else "normal"
        ax.text(column, row, f"{value:.1%}", ha="center", va="center", fontweight=bold)
    ax.text(4.6, row, f"{1000 * seconds[method]:.0f} ms", va="center")
ax.text(4.6, -0.75, "a fit")
ax.set_xticks(range(5), columns)
ax.xaxis.tick_top()
ax.set_yticks(range(len(order)), [list(models)[method] for method in order])
ax.tick_params(length=0)
ax.spines[:].set_visible(False)
plt.show()

# %%
# Differences of a point or two between two methods are within the spread of so few
# draws. A small model on rendered images does not decide between methods anyway: the
# :doc:`benchmarks </benchmarks>` do that on photographs.
#
# With your own images
# --------------------
# - Take :class:`~skfewshot.CMMClassifier` and look at the curve of your own task, with
#   :class:`~skfewshot.ZeroShotClassifier` and a logistic regression beside it.
# - If zero-shot is far below the probe at a few images a class, your names say little:
#   see the example on class names.
# - If the curve still climbs at the end, more images pay. If it is flat, see the
#   example on limits.

# sphinx_gallery_thumbnail_number = 1
