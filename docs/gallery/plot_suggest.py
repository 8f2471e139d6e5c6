"""
Which images to label next
==========================

A folder of a thousand images, no labels, and patience for two dozen. Which ones? At
random some kinds would come three times and others not at all. This example lets
:func:`~skfewshot.inspection.suggest` choose, round by round, and looks at what it
takes.
"""

# %%
# Nobody has labelled anything
# ----------------------------
# Rendered images of twelve kinds of object that the small model of the package was
# never trained on, with noise and clutter. Some kinds are common and some are rare.
# The names are known.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images
from skfewshot.inspection import suggest

look = {"kinds": NOVEL_KINDS, "clutter": 1.0, "noise": 0.1, "return_X_y": True}
images, truth = make_object_images(60, random_state=0, **look)
new_images, new_truth = make_object_images(40, random_state=1, **look)
rng = np.random.default_rng(0)
share = dict(zip(NOVEL_KINDS, np.geomspace(1, 0.2, len(NOVEL_KINDS)), strict=True))
kept = rng.random(len(truth)) < [share[kind] for kind in truth]
images, truth = np.asarray(images)[kept], truth[kept]
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(list(images)), clip.transform(new_images)
counts = np.unique(truth, return_counts=True)[1]
print(f"{len(X)} images, from {counts.min()} to {counts.max()} of a kind")

# %%
# Rounds of twelve
# ----------------
# The first round is chosen by the names alone, :class:`~skfewshot.ZeroShotClassifier`.
# Later ones are by the classifier that has learned from those before.


n = len(NOVEL_KINDS)


def label_in_rounds(choose, n_rounds=4):
    """Return the rows of each round, and the accuracy after it."""
    model = ZeroShotClassifier(text_encoder=clip).fit(None, NOVEL_KINDS)
    rows, scores = [], [model.score(X_new, new_truth)]
    for _ in range(n_rounds):
        known = np.concatenate([*rows, np.empty(0, dtype=int)])
        left = np.setdiff1d(np.arange(len(X)), known)
        rows.append(left[choose(model, left)])
        known = np.concatenate(rows)  # here you would label them
        model = CMMClassifier(extra_classes=NOVEL_KINDS).fit(X[known], truth[known])
        scores.append(model.score(X_new, new_truth))
    return rows, scores


suggested, scores = label_in_rounds(lambda model, left: suggest(model, X[left], n))
draws = [np.random.default_rng(seed) for seed in range(5)]
drawn = [
    label_in_rounds(lambda model, left, rng=rng: rng.permutation(len(left))[:n])
    for rng in draws
]

# %%
# What it takes
# -------------
# The first two rounds. An image is taken for many that are like it, so the common kinds
# come first; but one that is like it is not taken again, so the rare ones come soon.

fig, axes = plt.subplots(4, 6, figsize=(8.5, 6.6), layout="constrained")
for ax, row in zip(axes.flat, np.concatenate(suggested[:2]), strict=True):
    ax.imshow(images[row])
    ax.set(xticks=[], yticks=[])
    ax.set_title(truth[row], fontsize=8)
axes[0, 0].set_ylabel("first round")
axes[2, 0].set_ylabel("second round")
plt.show()

kinds_seen = [len(set(truth[np.concatenate(suggested[:r])])) for r in (1, 2)]
by_chance = np.mean([len(set(truth[rows[0]])) for rows, _ in drawn])
print(f"kinds seen after one and two rounds: {kinds_seen}")
print(f"at random after one: {by_chance:.1f}")

# %%
# What it is worth
# ----------------
# Accuracy on new images, of all kinds alike, against five random choices.

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
labelled = n * np.arange(5)
at_random = np.array([score for _, score in drawn])
for score in at_random:
    ax.plot(labelled, score, color="0.8", linewidth=1)
ax.plot(labelled, at_random.mean(axis=0), "o-", color="0.45", label="at random, mean")
ax.plot(labelled, scores, "o-", color="C0", linewidth=2, label="suggested")
ax.set(xlabel="Images labelled", ylabel="Accuracy", xticks=labelled)
ax.grid(alpha=0.3)
ax.legend(loc="lower right")
plt.show()

# %%
# With your own images
# --------------------
# - Embed once, keep ``X``, and take a round as large as you label in one sitting.
# - Images for a *test* are drawn at random: suggested ones are harder than most.
# - If you have no names yet, ``suggest(None, X, 20)`` shows what there is.

# sphinx_gallery_thumbnail_number = 1
