"""
Labels saved by images without labels
=====================================

A few images are labelled, because labelling is work. Thousands are not, and lie there.
They say nothing of names, but a lot about which images are alike: where the classes
lie, and how their images spread. :class:`~skfewshot.CMMClassifier` learns from them
when their label is ``None``.
"""

# %%
# A folder, and an afternoon of labelling
# ---------------------------------------
# Twelve kinds of object that the small model of the package was never trained on, with
# noise and clutter. Forty images of each are at hand, and forty others are for scoring.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import BASE_KINDS, NOVEL_KINDS, make_object_images

look = {"clutter": 1.0, "noise": 0.1, "return_X_y": True}
images, names = make_object_images(40, kinds=NOVEL_KINDS, random_state=0, **look)
new_images, truth = make_object_images(40, kinds=NOVEL_KINDS, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)


def draw(shots, seed):
    """Say which images get a label: a few of each kind, by lot."""
    rng = np.random.default_rng(seed)
    known = np.zeros(len(names), dtype=bool)
    for kind in np.unique(names):
        known[rng.permutation(np.flatnonzero(names == kind))[:shots]] = True
    return known


# %%
# All there is to write
# ---------------------
# One vector of names, with ``None`` where nobody has looked. A data frame's ``NaN`` and
# ``pd.NA`` say the same.

known = draw(shots=2, seed=0)
told = np.where(known, names.astype(object), None)
print(f"{known.sum()} of {len(told)} images have a label")
model = CMMClassifier().fit(X, told)
print(f"{model.score(X_new, truth):.1%} of the new images")

# %%
# The labels that are saved
# -------------------------
# Accuracy on new images by the number of labelled images a class, with the others left
# out and with them left in, for three draws of who gets a label.

from skfewshot.display import ShotCurveDisplay

shots = [1, 2, 4, 8, 16]
scores = {"labelled images": [], "and the others, without labels": []}
for n in shots:
    for curve in scores.values():
        curve.append([])
    for known in (draw(n, seed) for seed in range(3)):
        told = np.where(known, names.astype(object), None)
        few = CMMClassifier().fit(X[known], names[known])
        every = CMMClassifier().fit(X, told)
        for curve, model in zip(scores.values(), (few, every), strict=True):
            curve[-1].append(model.score(X_new, truth))

few, every = (np.mean(curve, axis=1) for curve in scores.values())
# How many labels the lower curve needs for what the upper one has at four a class.
enough = 2 ** np.interp(every[2], few, np.log2(shots))

fig, ax = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
for (name, curve), marker in zip(scores.items(), "so", strict=True):
    display = ShotCurveDisplay(
        shots=shots, test_scores=np.array(curve), name=name, score_name="Accuracy"
    )
    display.plot(ax=ax, line_kw={"marker": marker})
ax.annotate(
    "",
    (enough, every[2]),
    (4, every[2]),
    arrowprops={"arrowstyle": "->", "linewidth": 1.5, "shrinkA": 5, "shrinkB": 0},
)
ax.annotate(
    f"4 labels a class and the others:\nas good as {enough:.0f} labels a class",
    (2 * np.sqrt(enough), every[2]),
    (0, -70),
    textcoords="offset points",
    arrowprops={"arrowstyle": "-", "color": "0.6"},
    va="top",
)
ax.set_title("Twelve kinds of object, 480 images, few of them labelled")
plt.show()

# %%
# The gain is largest where labels are fewest. On the right the labelled images have
# said what there is to say, and little is left to learn from the others.
#
# A pool that is not what you think
# ---------------------------------
# Nobody has looked at those images. Perhaps half of the kinds do not occur among them,
# or a third shows something else altogether. Rows that belong to no class are taken by
# a background, and shares of classes are estimated: the pool need not be balanced.

kinds = np.unique(names)
foreign_images, _ = make_object_images(9, kinds=BASE_KINDS, random_state=2, **look)
X_foreign = clip.transform(foreign_images)
pools = {"labelled images only": [], "the folder as it is": []}
pools |= {"half of the kinds missing": [], "and a third foreign": []}
for seed in range(3):
    known = draw(2, seed)
    told = np.where(known, names.astype(object), None)
    half = known | np.isin(names, np.random.default_rng(seed).permutation(kinds)[:6])
    cases = [
        (X[known], names[known]),
        (X, told),
        (X[half], told[half]),
        (np.concatenate([X, X_foreign]), np.append(told, [None] * len(X_foreign))),
    ]
    for curve, case in zip(pools.values(), cases, strict=True):
        curve.append(CMMClassifier().fit(*case).score(X_new, truth))

fig, ax = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
means = [np.mean(curve) for curve in pools.values()]
bars = ax.barh(list(pools), means, color=["0.7", "C0", "C0", "C0"])
ax.bar_label(bars, [f"{mean:.1%}" for mean in means], padding=3)
ax.invert_yaxis()
ax.set(xlim=(0, 1), xlabel="Accuracy on new images, two labels a class")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# A batch, answered together
# --------------------------
# ``predict`` answers every image by itself. Where a folder is to be sorted at once,
# ``transduce`` takes the batch for the images without labels, and answers all of it
# together; the fitted classifier stays as it is.

known = draw(2, seed=0)
model = CMMClassifier().fit(X[known], names[known])
print(f"one at a time: {np.mean(model.predict(X_new) == truth):.1%}")
print(f"together:      {np.mean(model.transduce(X_new) == truth):.1%}")

# %%
# With your own images
# --------------------
# - Put ``None`` for the labels you do not have, and leave those images in.
# - Score on labelled images that were kept aside. Fits learn from the unlabelled ones,
#   scores never count them.
# - On photographs see the :doc:`benchmarks </benchmarks>`: the gain depends on how well
#   the embeddings separate your classes.

# sphinx_gallery_thumbnail_number = 1
