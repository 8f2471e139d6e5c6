"""
Which classes may it be?
========================

One class and a probability hide what else an image may be. A *prediction set* holds all
classes that are likely enough, so that a share of the sets that you choose holds the
right one: :func:`~skfewshot.inspection.predict_set`. No image is kept aside for it.
"""

# %%
# Images that are hard to tell
# ----------------------------
# 28 kinds of object, rendered with noise and clutter, six images of each.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images
from skfewshot.inspection import predict_set

look = {"kinds": BASE_KINDS, "clutter": 1.0, "noise": 0.2}
images, names = make_object_images(6, return_X_y=True, random_state=0, **look)
new_images, new_names = make_object_images(20, return_X_y=True, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)
model = CMMClassifier(store_left_out=True).fit(X, names)
truth = np.searchsorted(model.classes_, new_names)

# %%
# Sets
# ----
# The harder an image, the more classes its set has. Green sets hold the right class,
# which is the first line.

sets = predict_set(model, X_new, coverage=0.9)
sizes = sets.sum(axis=1)
held = sets[np.arange(len(truth)), truth]
shown = [np.flatnonzero(sizes == size)[i] for size in (1, 2, 3, 5) for i in (0, 3)]
fig, axes = plt.subplots(2, 4, figsize=(9.5, 6), layout="constrained")
for ax, row in zip(axes.T.flat, shown, strict=True):
    ax.imshow(new_images[row])
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"it is: {model.classes_[truth[row]]}", fontsize=9)
    color = "#00704f" if held[row] else "#b35900"
    ax.set_xlabel("\n".join(model.classes_[sets[row]]), fontsize=8, color=color)
plt.show()

# %%
# As often as asked?
# ------------------
# Each image of the support was left out in turn, so what is asked for is known from
# them. The support is small, so another one would give a curve a little above or below.

asked = np.array([0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98])
covered, size = [], []
for coverage in asked:
    sets = predict_set(model, X_new, coverage=coverage)
    covered.append(sets[np.arange(len(truth)), truth].mean())
    size.append(sets.sum(axis=1).mean())

plt.style.use("tableau-colorblind10")
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(asked, covered, marker="o")
left.plot([0.55, 1], [0.55, 1], ":", color="0.4")
left.set(xlabel="Coverage asked for", ylabel="Sets that hold the right class")
right.plot(asked, size, marker="o")
right.set(xlabel="Coverage asked for", ylabel="Classes a set, in the mean")
right.set_ylim(bottom=0)
for ax in (left, right):
    ax.grid(alpha=0.3)
plt.show()

# %%
# With your own images
# --------------------
# - ``make_pipeline(CLIPFeaturizer(), CMMClassifier(store_left_out=True))`` does it from
#   images: ``predict_set(pipeline, images)``.
# - From four images a class on you get what you ask for, give or take two points. With
#   one or two it is more, by larger sets.
# - An empty set says that no class is likely enough: see
#   :ref:`sphx_glr_auto_examples_plot_unknown.py`.

# sphinx_gallery_thumbnail_number = 1
