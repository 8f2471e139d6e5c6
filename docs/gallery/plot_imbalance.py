"""
Some classes have one image, others forty
=========================================

Rare things are rare in data too. With one image of some classes and forty of others,
a classifier may do well on the whole and never find the rare ones. What helps?
"""

# %%
# Unequal classes
# ---------------
# Fourteen kinds of object, rendered with noise and clutter, from one image of the
# rarest to forty of the most frequent. Which kind is rare is drawn eight times, so that
# it is not the kind that decides. The new images have all kinds equally often.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images

kinds = np.array(BASE_KINDS[::2])
look = {"kinds": kinds.tolist(), "clutter": 1.0, "noise": 0.15}
images, names = make_object_images(40, return_X_y=True, random_state=0, **look)
new_images, truth = make_object_images(50, return_X_y=True, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)

sizes = np.geomspace(1, 40, len(kinds)).round().astype(int)
print("images of the classes:", *sizes)


def draw_support(seed):
    """Return the rows of an unequal support, and the kinds from rare to frequent."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(kinds)
    rows = [
        rng.permutation(np.flatnonzero(names == kind))[:size]
        for kind, size in zip(order, sizes, strict=True)
    ]
    return np.concatenate(rows), order


# %%
# Four ways to learn from them
# ----------------------------
# A logistic regression as it is, and with ``class_weight="balanced"``, where an image
# of a rare class counts for more; the same two for :class:`~skfewshot.CMMClassifier`,
# which has the class names besides.

from sklearn.linear_model import LogisticRegression

models = {
    "linear probe": LogisticRegression(C=10, max_iter=1000),
    "linear probe, balanced": LogisticRegression(
        C=10, max_iter=1000, class_weight="balanced"
    ),
    "CMM": CMMClassifier(),
    "CMM, balanced": CMMClassifier(class_weight="balanced"),
}
n_draws = 8
recalls = {name: np.zeros(len(kinds)) for name in models}
for seed in range(n_draws):
    rows, order = draw_support(seed)
    for name, model in models.items():
        guesses = model.fit(X[rows], names[rows]).predict(X_new)
        recalls[name] += [
            np.mean(guesses[truth == kind] == kind) / n_draws for kind in order
        ]

# %%
# What becomes of the rare classes
# --------------------------------
# Recall, the share of a class's new images that are found, by how many images of the
# class there were to learn from.

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
styles = zip(["C1", "C1", "C0", "C0"], ["--", "-", "--", "-"], "osos", strict=True)
places = np.arange(len(sizes))
for (name, recall), (color, line, marker) in zip(recalls.items(), styles, strict=True):
    ax.plot(places, recall, line, color=color, marker=marker, label=name)
ax.set_xticks(places, sizes)
ax.set(
    xlabel="Images of the class to learn from (classes from rare to frequent)",
    ylabel="Recall on new images",
    ylim=(0, 1),
)
ax.grid(alpha=0.3)
ax.legend(loc="lower right")
plt.show()

# %%
# Which number to look at
# -----------------------
# Accuracy depends on how frequent the classes are where you count. If new images come
# like the support, rare classes hardly count; balanced accuracy, the mean of the
# recalls, counts every class the same. A classifier can be better in one and worse in
# the other.

shares = sizes / sizes.sum()
measures = {
    "accuracy, if new images\ncome like the support": shares,
    "balanced accuracy": np.full(len(sizes), 1 / len(sizes)),
    "recall of classes\nwith one or two images": (sizes <= 2) / (sizes <= 2).sum(),
}
fig, ax = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
colors = ["#ffbc79", "C1", "#a2c8ec", "C0"]
for index, ((name, recall), color) in enumerate(
    zip(recalls.items(), colors, strict=True)
):
    values = [100 * recall @ weight for weight in measures.values()]
    bars = ax.bar(
        np.arange(3) + 0.2 * index - 0.3, values, 0.19, color=color, label=name
    )
    ax.bar_label(bars, [f"{value:.0f}" for value in values], padding=2)
ax.set_xticks(range(3), measures)
ax.set(ylabel="Of 100 new images", ylim=(0, 105))
ax.legend(ncols=4, loc="upper center", columnspacing=1)
plt.show()

# %%
# With your own images
# --------------------
# - Look at recalls, class by class, and at
#   :func:`~sklearn.metrics.balanced_accuracy_score`; tell searches so by
#   ``scoring="balanced_accuracy"``.
# - Good names are worth most where images are fewest.
# - ``class_weight="balanced"`` says that rare classes matter as much as frequent ones.
#   It is a decision about what you want, and costs some of the frequent classes'
#   recall.
# - Do not throw images of frequent classes away to make the classes equal.

# sphinx_gallery_thumbnail_number = 1
