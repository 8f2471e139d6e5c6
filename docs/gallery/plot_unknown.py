"""
None of these: images of unknown classes
========================================

A classifier gives one of its classes to any image, and may be sure of it. How high the
best logit is says whether the image is like that class at all:
:func:`~skfewshot.inspection.novelty_score`. From where on an image is *unknown* is
known from images of the support that are left out, so no image of anything else is
needed.
"""

# %%
# Four classes, and others that come by
# -------------------------------------

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import make_object_images
from skfewshot.inspection import RejectingClassifier, novelty_score

look = {"clutter": 0.6, "noise": 0.1, "return_X_y": True}
kinds = ["striped star", "plain heart", "checked ring", "spotted square"]
others = ["plain cross", "striped moon", "spotted ball"]
images, names = make_object_images(12, kinds=kinds, random_state=0, **look)
known, known_names = make_object_images(40, kinds=kinds, random_state=1, **look)
unknown, _ = make_object_images(50, kinds=others, random_state=2, **look)

clip = CLIPFeaturizer("tiny")
X, X_known, X_unknown = map(clip.fit_transform, (images, known, unknown))
model = RejectingClassifier(CMMClassifier(), false_alarms=0.05).fit(X, names)

# %%
# The largest probability, and novelty
# ------------------------------------
# Probabilities compare four classes, and for many an unknown image one of them wins
# clearly. Right of the line an image is called unknown: 5 % of the images of the
# support are there when they are left out.

plt.style.use("tableau-colorblind10")
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for rows, label in ((X_known, "of the classes"), (X_unknown, "of others")):
    sure = model.predict_proba(rows).max(axis=1)
    left.hist(sure, np.linspace(0.25, 1, 26), alpha=0.6, label=label)
    right.hist(novelty_score(model, rows), 25, alpha=0.6, label=label)
right.axvline(model.threshold_, color="0.3", linestyle=":")
left.set(xlabel="Largest probability", ylabel="Images")
right.set(xlabel="Novelty score")
left.legend()
plt.show()

# %%
# What it says
# ------------

found, alarms = model.predict(X_unknown), model.predict(X_known) == "unknown"
print(f"of the others {(found == 'unknown').mean():.0%} are found")
print(f"of images of the classes {alarms.mean():.0%} are called unknown")

fig, axes = plt.subplots(2, 5, figsize=(9.5, 4.4), layout="constrained")
answers = np.concatenate([model.predict(X_known[::36]), found[::30]])
for ax, image, answer in zip(
    axes.flat, [*known[::36], *unknown[::30]], answers, strict=True
):
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(answer, fontsize=9)
axes[0, 0].set_ylabel("of the classes")
axes[1, 0].set_ylabel("of others")
plt.show()

# %%
# With your own images
# --------------------
# - ``make_pipeline(CLIPFeaturizer(), RejectingClassifier(CMMClassifier()))`` does it
#   from images. `false_alarms` is what you put up with.
# - What is like your classes is hard to tell from them. Where you know what comes by,
#   add a class for it: images of it, or ``extra_classes=`` with its name.
# - At one or two images a class alarms may be far from what was asked; with fewer than
#   19 images in all a warning says that 5 % cannot be told.

# sphinx_gallery_thumbnail_number = 2
