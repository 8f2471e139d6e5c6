"""
The modality gap, and what Cross-Modal Mapping does about it
============================================================

CLIP puts images and texts into one space. One would expect the text "a photo of a
striped star" to lie among the images of striped stars. It does not: images keep to
one region and texts to another. That is the *modality gap*, and why a name is a poor
prototype of its images.
"""

# %%
# See the gap
# -----------
# Rendered images of ten kinds of object, with much noise and clutter, four of each to
# learn from, and the small model of the package. Embeddings of images and of names have
# length one, so that the cosine is their inner product.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images

classes = list(BASE_KINDS[::3])
look = {"kinds": classes, "clutter": 1.0, "noise": 0.15}
pool = make_object_images(4, random_state=0, **look)
test = make_object_images(40, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_test = clip.fit_transform(pool.images), clip.transform(test.images)
T = clip.encode_classes(classes)

same = test.labels[:, None] == test.labels
pairs = ~np.eye(len(X_test), dtype=bool)
own = test.labels[:, None] == np.array(classes)
cosines = {
    "image and image,\nsame class": (X_test @ X_test.T)[same & pairs],
    "image and image,\ndifferent classes": (X_test @ X_test.T)[~same],
    "image and\nits name": (X_test @ T.T)[own],
    "image and\nanother name": (X_test @ T.T)[~own],
}

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
values = [np.asarray(cosine) for cosine in cosines.values()]
parts = ax.violinplot(values, widths=0.7, showextrema=False, showmedians=True)
for body, color in zip(parts["bodies"], ["C0", "C0", "C1", "C1"], strict=True):
    body.set(facecolor=color, alpha=0.6)
parts["cmedians"].set_color("black")
ax.set_xticks(range(1, 5), cosines)
ax.set_ylabel("Cosine")
ax.grid(axis="y", alpha=0.3)
plt.show()

# %%
# Compare the first and the third: an image is typically nearer to another image of
# its class than to the name of its class. As long as names are compared with names
# only, as in zero-shot classification, that need not do harm. It does as soon as images
# and names are to be used together.
#
# Map images to where the texts are
# ---------------------------------
# :class:`~skfewshot.CMMClassifier` centres the images and learns a linear map from the
# few that it is given. The map makes classes round, and is turned so that the
# *prototypes*, which the images of a class are compared with, lie by the texts as
# nearly as they can. ``transform`` applies it.
# :class:`~skfewshot.display.ModalityGapDisplay` shows both sides in one plane, with
# images that were not learned from. Texts are not mapped: after the mapping they are
# shown less their mean, as images are. The gap in the titles is the distance
# of the mean image to the mean text, before anything is projected; beside it is how
# many images have the text of their own class for the nearest one.

from skfewshot.display import ModalityGapDisplay

model = CMMClassifier().fit(X, pool.labels)
display = ModalityGapDisplay.from_estimator(model, X_test, test.labels)
plt.show()

# %%
# What it brings
# --------------
# The gap alone is not the point: to centre both closes it. Nor is the nearest text how
# the classifier decides. It adds what the prototypes say of the mapped image to what
# the texts say of the image as it is.

zero_shot = ZeroShotClassifier().fit(X, pool.labels)
print(f"gap before the mapping:  {display.gap_before:.2f}")
print(f"gap after it:            {display.gap_after:.2f}")
print(f"nearest text, before:    {display.nearest_before:.1%}")
print(f"nearest text, after:     {display.nearest_after:.1%}")
print(f"accuracy of zero-shot:   {zero_shot.score(X_test, test.labels):.1%}")
print(f"accuracy of CMM:         {model.score(X_test, test.labels):.1%}")

# %%
# Is it the shift, the images or the map?
# ---------------------------------------
# If the gap is a shift, why not subtract the mean of the images and that of the texts?
# One can, and it closes the gap by construction. And how much do the images do on their
# own, by the means of the classes? (:class:`~skfewshot.ZeroShotClassifier` takes these
# where it is given no text.)

from sklearn.preprocessing import normalize

moved = normalize(X_test - X.mean(axis=0))
centred = normalize(T - T.mean(axis=0))
guesses = np.array(classes)[(moved @ centred.T).argmax(axis=1)]
means = ZeroShotClassifier(text_features=None).fit(X, pool.labels)
accuracies = {
    "names": zero_shot.score(X_test, test.labels),
    "names, both\nmeans taken away": np.mean(guesses == test.labels),
    "class means\nof the images": means.score(X_test, test.labels),
    "CMM": model.score(X_test, test.labels),
}
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
bars = ax.bar(list(accuracies), accuracies.values(), color=["C2", "C2", "C1", "C0"])
ax.bar_label(bars, [f"{value:.1%}" for value in accuracies.values()], padding=2)
ax.set(ylabel="Accuracy on new images", ylim=(0, 1.08))
plt.show()

# %%
# Compare the last bar with the first and the third, names alone and images alone. How
# the balance shifts with more images is in the example on which classifier to take.
#
# With your own images
# --------------------
# Draw ``ModalityGapDisplay.from_estimator(model, X, y)`` with images that were kept
# aside. A star far from the marks of its class, also after the mapping, may be a class
# whose name misleads; ``text_trust_`` of the classifier says so in a number. Give it a
# better one with ``class_names``.
#
# .. seealso::
#
#    `Mind the gap <https://arxiv.org/abs/2203.02053>`_ on where the gap comes from, and
#    `Cross-Modal Mapping <https://arxiv.org/abs/2412.20110>`_, the method.

# sphinx_gallery_thumbnail_number = 2
