"""
From probabilities to decisions
===============================

A probability is not yet a decision. With several labels an image you have to say from
which probability on a label counts. With one label an image you may want to say "I do
not know", and hand the image to a person. Both are thresholds, and both have
to be chosen without the images that you will report on.
"""

# %%
# Several labels: how sure is sure enough?
# ----------------------------------------
# Scenes of one to four objects out of twelve kinds, rendered, and the small model of
# the package. Each label is shown by five images of the support at least.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot.datasets import NOVEL_KINDS, make_scenes
from skfewshot.model_selection import sample_support

labels = list(NOVEL_KINDS)
pool = make_scenes(120, kinds=labels, random_state=0)
test = make_scenes(200, kinds=labels, random_state=1)
rows = sample_support(pool.labels, 5, random_state=0)
clip = CLIPFeaturizer("tiny", output="tokens")
X, Y = clip.fit_transform(pool.images[rows]), pool.labels[rows]
X_test, Y_test = clip.transform(test.images), test.labels

# %%
# Three ways to set it
# --------------------
# ``threshold`` of :class:`~skfewshot.MultiLabelPrototypeClassifier` is a number;
# ``"cardinality"``, at which images get as many labels as those of the support on
# average; or a number for each label. For the latter we take, label by label, the
# threshold of the best F1 on probabilities of support images that were left out of the
# fit.

from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import cross_val_predict

from skfewshot.model_selection import MultilabelStratifiedKFold

base = MultiLabelPrototypeClassifier(label_names=labels)
folds = MultilabelStratifiedKFold(3, shuffle=True, random_state=0)
left_out = cross_val_predict(base, X, Y, cv=folds, method="predict_proba")


def best_f1(y, probability):
    """Return the threshold of the largest F1."""
    precision, recall, thresholds = precision_recall_curve(y, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return thresholds[f1[:-1].argmax()]


per_label = [best_f1(y, p) for y, p in zip(Y.T, left_out.T, strict=True)]
choices = {"one half": 0.5, "cardinality": "cardinality", "for each label": per_label}
models = {
    name: MultiLabelPrototypeClassifier(label_names=labels, threshold=threshold)
    for name, threshold in choices.items()
}

# %%
# What they trade
# ---------------
# A threshold is a point on the curve of precision (how many of the labels given are
# right) against recall (how many of the true labels are given).

from sklearn.metrics import f1_score

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(6.4, 5), layout="constrained")
probabilities = base.fit(X, Y).predict_proba(X_test)
precision, recall, _ = precision_recall_curve(Y_test.ravel(), probabilities.ravel())
ax.plot(recall, precision, color="0.6", label="all thresholds")
for (name, model), marker in zip(models.items(), "osD", strict=True):
    given = model.fit(X, Y).predict(X_test)
    right = (given * Y_test).sum()
    precision, recall = right / given.sum(), right / Y_test.sum()
    f1 = f1_score(Y_test, given, average="macro")
    label = f"{name}: macro F1 {f1:.2f}"
    ax.plot(recall, precision, marker, markersize=10, label=label)
ax.set(
    title="200 new scenes, all labels together",
    xlabel="Recall",
    ylabel="Precision",
    xlim=(0.4, 1),
    ylim=(0.4, 1.02),
)
ax.legend(loc="lower left")
plt.show()

# %%
# A threshold for each label need not lie on the curve, which is that of one for all.
# And here it was chosen on as few as five positive images a label: see what that did to
# its F1.
#
# One label an image: when to say "I do not know"
# -----------------------------------------------
# 28 kinds of object, one an image, noisy and cluttered, four images of each to learn
# from. Accuracy over all images is one number. If the classifier may keep silent, there
# is a curve: accuracy on the images that it answers, by how many it answers.

from skfewshot import CMMClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images

look = {"kinds": BASE_KINDS, "clutter": 1.0, "noise": 0.15}
images, names = make_object_images(4, return_X_y=True, random_state=0, **look)
new_images, truth = make_object_images(25, return_X_y=True, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_test = clip.fit_transform(images), clip.transform(new_images)
classes = np.unique(names)

# %%
# Say that nine in ten answers shall be right. From which probability on? The support
# has to tell, by predictions for images that were left out. (``cross_val_predict``
# numbers the classes before it fits, so that the classifier has to be told their
# names.)


def answered(probabilities, truth):
    """Return the share answered, its accuracy and the threshold, surest image first."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence)
    right = classes[probabilities.argmax(axis=1)][order] == truth[order]
    n = np.arange(1, len(order) + 1)
    return n / len(order), right.cumsum() / n, confidence[order]


model = CMMClassifier(class_names=classes)
left_out = cross_val_predict(model, X, names, cv=4, method="predict_proba")
share, accuracy, thresholds = answered(left_out, names)
threshold = thresholds[np.flatnonzero(accuracy >= 0.9)[-1]]

probabilities = model.fit(X, names).predict_proba(X_test)
share_test, accuracy_test, _ = answered(probabilities, truth)
sure = probabilities.max(axis=1) >= threshold
right = model.predict(X_test) == truth

fig, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
ax.plot(share, accuracy, color="0.6", label="support, left out")
ax.plot(share_test, accuracy_test, color="C0", label="new images")
label = f"at the threshold of {threshold:.2f}"
ax.plot(sure.mean(), right[sure].mean(), "D", color="C1", markersize=10, label=label)
ax.axhline(0.9, color="0.3", linestyle=":", label="wanted")
ax.set(xlabel="Share of images answered", ylabel="Accuracy on these", ylim=(0.5, 1.02))
ax.grid(alpha=0.3)
ax.legend(loc="lower left")
plt.show()

print(f"all answered: {right.mean():.1%} right")
print(f"{sure.mean():.1%} answered: {right[sure].mean():.1%} right")

# %%
# Images of none of the classes
# -----------------------------
# The same classifier on images of kinds that it was never told of. It can only answer
# with one of its own classes. Does its probability give it away?

strange = make_object_images(
    50, kinds=NOVEL_KINDS, clutter=1.0, noise=0.15, random_state=2
)
confidence = {
    "of its classes": probabilities.max(axis=1),
    "of none of its classes": model.predict_proba(clip.transform(strange.images)).max(
        1
    ),
}
fig, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
for (name, values), color in zip(confidence.items(), ["C0", "C1"], strict=True):
    style = {"color": color, "alpha": 0.6, "label": f"images {name}"}
    ax.hist(values, np.linspace(0, 1, 26), density=True, **style)
ax.axvline(threshold, color="0.3", linestyle=":", label="threshold")
ax.set(xlabel="Largest probability", yticks=[], ylabel="Share of images")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
plt.show()

passed = (confidence["of none of its classes"] >= threshold).mean()
print(f"{passed:.1%} of the strangers get past the threshold")

# %%
# Probabilities are shared out among the classes there are. They tell doubt between two
# classes, and much less that it is none of them.
#
# With your own images
# --------------------
# - Decide what you need, such as nine in ten right, before you look at any curve.
# - Choose the threshold on support images that were left out, or on images kept for
#   that purpose, and report on others. A few images give a rough threshold.
# - If strangers will come, collect some, and give them a class of their own or use them
#   to set the threshold.

# sphinx_gallery_thumbnail_number = 2
