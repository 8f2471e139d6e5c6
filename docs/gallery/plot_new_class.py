"""
A class you have no image of
============================

A new product, a rare species: it will turn up, and there is no picture of it yet. A
classifier of pixels cannot know it. One that starts from texts can, as the name is
enough to place it.
"""

# %%
# Five images of each class, but for one
# --------------------------------------
# Rendered images of twelve kinds of object, and the small model of the package, which
# was trained on none of these kinds, but knows the words. Nobody has an image of a
# "checked ring".

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images

newcomer = "checked ring"
images, names = make_object_images(
    5, kinds=NOVEL_KINDS, return_X_y=True, random_state=0
)
new_images, truth = make_object_images(
    40, kinds=NOVEL_KINDS, return_X_y=True, random_state=1
)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)
known = names != newcomer

# %%
# Named before the fit, or added after it
# ---------------------------------------
# ``extra_classes`` names classes that the support does not have. And a fitted
# classifier learns a class by :meth:`~skfewshot.CMMClassifier.add_class` without a new
# fit, so without the images. Both come to the same.

before = CMMClassifier(extra_classes=[newcomer]).fit(X[known], names[known])
after = CMMClassifier().fit(X[known], names[known]).add_class(newcomer)
same = (before.predict(X_new) == after.predict(X_new)).mean()
print(f"same predictions: {same:.1%}")

# %%
# What becomes of it
# ------------------
# We compare with two others: zero-shot CLIP, to which all classes are new, and the
# classifier that has images of all. For all three: the share of the newcomer's images
# that are found, of the others' that are still right, and how often the newcomer
# is named although it is something else.

models = {
    "zero-shot\n(no images at all)": ZeroShotClassifier().fit(X, names),
    "CMM, newcomer\nby its name alone": before,
    "CMM, five images\nof the newcomer too": CMMClassifier().fit(X, names),
}
is_new = truth == newcomer
figures = []
for model in models.values():
    guesses = model.predict(X_new)
    figures.append(
        [
            (guesses[is_new] == newcomer).mean(),
            (guesses[~is_new] == truth[~is_new]).mean(),
            (guesses[~is_new] == newcomer).mean(),
        ]
    )

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
what = [f"“{newcomer}” found", "other classes right", f"“{newcomer}” said wrongly"]
colors = ["C0", "C2", "C1"]
for column, (label, color) in enumerate(zip(what, colors, strict=True)):
    heights = [row[column] for row in figures]
    places = np.arange(len(models)) + 0.27 * (column - 1)
    bars = ax.bar(places, heights, 0.25, label=label, color=color)
    ax.bar_label(bars, [f"{height:.0%}" for height in heights], padding=2)
ax.set_xticks(range(len(models)), models)
ax.set(ylabel="Share of new images", ylim=(0, 1.25))
ax.legend(ncols=3, loc="upper center")
plt.show()

# %%
# Every class in turn
# -------------------
# Was that a lucky choice? Each of the twelve kinds takes its turn as the newcomer.

found = []
for kind in NOVEL_KINDS:
    rest = names != kind
    model = CMMClassifier(extra_classes=[kind]).fit(X[rest], names[rest])
    its = truth == kind
    zero_shot, _, full = models.values()
    three = zero_shot, model, full
    found.append([(m.predict(X_new[its]) == kind).mean() for m in three])
found = np.array(found)
order = found[:, 1].argsort()

fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
rows = np.arange(len(order))
ax.hlines(rows, found[order].min(axis=1), found[order].max(axis=1), color="0.85")
labels = ["zero-shot", "by its name alone", "five images of it"]
for column, (label, marker) in enumerate(zip(labels, "o*s", strict=True)):
    style = {"s": 130 if marker == "*" else 40, "color": ["0.55", "C1", "C0"][column]}
    ax.scatter(
        found[order, column], rows, marker=marker, label=label, zorder=3, **style
    )
ax.set_yticks(rows, np.array(NOVEL_KINDS)[order])
ax.set(
    xlabel="Share of its images found, each kind as the newcomer", xlim=(-0.03, 1.03)
)
ax.grid(axis="x", alpha=0.3)
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
plt.show()

for label, mean in zip(labels, found.mean(axis=0), strict=True):
    print(f"{label}: {mean:.0%} on average")

# %%
# A name alone finds some newcomers as well as images would and others hardly ever: the
# name has to say what sets the class apart *for this encoder*, and the classes
# that have images have become harder to beat.
#
# With your own classes
# ---------------------
# - Use it to open a class on the first day, and replace it by a few images as soon as
#   there are some: five are nearly always better.
# - Describe rather than name: "okapi, a striped brown animal" if in doubt. It takes
#   texts: a classifier that was fitted without any refuses ``add_class``.
# - Images of something else altogether still get the name of one of the classes. For
#   "none of these" see :ref:`sphx_glr_auto_examples_plot_unknown.py`.
# - Images that come later are learned by :meth:`~skfewshot.CMMClassifier.add_images`,
#   and :meth:`~skfewshot.CMMClassifier.forget_class` takes a class out:
#   :doc:`/guide/new-classes`.

# sphinx_gallery_thumbnail_number = 2
