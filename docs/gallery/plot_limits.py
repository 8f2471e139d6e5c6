"""
When frozen features are not enough
===================================

More images do not always help. What a frozen encoder has not kept, no classifier on
top of it can bring back. How do you see that this is the trouble, and what can be
done?

We put two questions to the *same* images: *what* is in it, one of four objects, and
*where* is it, in the left half or in the right? CLIP models are trained to say what
an image shows, so that an embedding of the whole image should be good for the first
question. For the second we shall see.
"""

# %%
# The same images, two questions
# ------------------------------
# Rendered images again, embedded by the small model of the package. With
# ``output="tokens"`` there is one embedding for the whole image, in row 0, and one for
# each of its 64 patches.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer
from skfewshot.datasets import make_object_images

kinds = ["plain star", "striped ball", "checked square", "spotted heart"]
data = make_object_images(150, kinds=kinds, random_state=0)
middle = (data.boxes[:, 0] + data.boxes[:, 2]) / 2
clear = np.abs(middle - 32) > 4  # nothing that lies astride
what = data.labels[clear]
where = np.where(middle < 32, "left", "right")[clear]

tokens = CLIPFeaturizer("tiny", output="tokens").fit_transform(data.images[clear])
X = tokens[:, 0]
X.shape, tokens.shape

# %%
# A look at some of them
# ----------------------

fig, axes = plt.subplots(2, 4, figsize=(7.5, 4.4), layout="constrained")
for column, kind in enumerate(kinds):
    for row, side in enumerate(["left", "right"]):
        first = np.flatnonzero((what == kind) & (where == side))[0]
        axes[row, column].imshow(data.images[clear][first])
        axes[row, column].set_xlabel(f"{kind}, {side}")
        axes[row, column].set(xticks=[], yticks=[])
plt.show()

# %%
# The sign: a curve that stays flat
# ---------------------------------
# :func:`~skfewshot.model_selection.shot_curve` draws supports of 1, 2, 4, ... images a
# class and scores on images kept aside. A curve that still climbs asks for more images.
# A flat one well below what you need asks for other features.

from sklearn.model_selection import StratifiedShuffleSplit

from skfewshot import CMMClassifier
from skfewshot.display import ShotCurveDisplay

protocol = {
    "shots": (1, 2, 4, 8, 16, 32),
    "cv": StratifiedShuffleSplit(n_splits=1, test_size=0.4, random_state=0),
    "n_repeats": 5,
    "random_state": 0,
}
plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
ShotCurveDisplay.from_estimator(
    CMMClassifier(), X, what, ax=ax, name="what, whole image", **protocol
)
ShotCurveDisplay.from_estimator(
    CMMClassifier(), X, where, ax=ax, name="where, whole image", **protocol
)
ax.axhline(0.5, color="grey", linestyle=":", label="guessing where")
ax.set(title="One embedding an image", ylim=(0.4, 1.03))
ax.legend(loc="center right")
plt.show()

# %%
# The second sign: errors without a pattern
# -----------------------------------------
# Take as many images as there are. If a few classes are mixed up with each other, they
# may be alike in the images or in their names: look at them. If everything is mixed up
# with everything, as on the right, the embedding says little about the question.

from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import cross_val_predict

fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
for ax, y, title in zip(axes, [what, where], ["What?", "Where?"], strict=True):
    predictions = cross_val_predict(CMMClassifier(), X, y, cv=5)
    ConfusionMatrixDisplay.from_predictions(
        y,
        predictions,
        normalize="true",
        values_format=".0%",
        cmap="Blues",
        im_kw={"vmin": 0, "vmax": 1},
        colorbar=False,
        xticks_rotation=25,
        ax=ax,
    )
    ax.set_title(f"{title} All images, 5 folds")
plt.show()

# %%
# Is it the classifier, or the features?
# --------------------------------------
# Another classifier on the same embeddings is the first test. If that does no better,
# try other features: here the patches of the same model, laid side by side, which keep
# what is where. A plain logistic regression on them will do.

from sklearn.linear_model import LogisticRegression

probe = LogisticRegression(C=10, max_iter=1000)
patches = np.asarray(tokens)[:, 1:].reshape(len(tokens), -1)
fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for features, name in [
    (np.asarray(X), "linear probe, whole image"),
    (patches, "linear probe, patches in their places"),
]:
    ShotCurveDisplay.from_estimator(
        probe, features, where, ax=ax, name=name, **protocol
    )
ax.axhline(0.5, color="grey", linestyle=":", label="guessing")
ax.set(title="Where is the object?", ylim=(0.4, 1.03))
ax.legend(loc="center right")
plt.show()

# %%
# The model had seen where things are; its embedding of the whole image just does not
# say it.
#
# With images of your own
# -----------------------
# - Draw the curve first. Where it levels off is about what this encoder can give you.
# - Questions that go wrong with embeddings of whole images are those of place, of
#   number, of size, of small detail in a large image, and of everything that no caption
#   would mention.
# - Then, in this order: crop to what matters; use patches
#   (``output="tokens"``, :class:`~skfewshot.MultiLabelPrototypeClassifier`); take a
#   larger model, or one trained on your kind of image
#   (``CLIPFeaturizer("hf-hub:...")``); and only then fine-tune an encoder, which wants
#   many more images.

# sphinx_gallery_thumbnail_number = 4
