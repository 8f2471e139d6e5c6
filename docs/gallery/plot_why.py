"""
Why this class?
===============

"It says *ring*, and it is a *cross*." Was it the name, or an image like this one among
those that it learned from? :func:`~skfewshot.inspection.explain` takes each answer
apart: into what the texts said and what the images said, exactly.
"""

# %%
# A classifier that makes mistakes
# --------------------------------
# Twelve kinds of object with noise and clutter, four images of each.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images
from skfewshot.inspection import explain

look = {"kinds": NOVEL_KINDS, "clutter": 1.0, "noise": 0.1, "return_X_y": True}
images, names = make_object_images(4, random_state=0, **look)
new_images, truth = make_object_images(10, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)
model = CMMClassifier(store_left_out=True).fit(X, names)

# %%
# What decided
# ------------
# ``text_lead``, ``image_lead`` and ``level_lead`` say by how much the name, the images
# and an intercept put the winner above the runner-up. They add up to the logarithm of
# the ratio of the two probabilities.

why = explain(model, X_new, n_neighbors=2)
lead = why.text_lead + why.image_lead + why.level_lead
ratio = np.log(why.proba / why.runner_up_proba)
print(f"largest difference: {np.abs(lead - ratio).max():.1e}")
is_wrong = why.label != truth
print(f"wrong: {is_wrong.mean():.0%} of {len(truth)}")

# %%
# Four mistakes that the classifier was sure of, with what decided, and the two images
# of the support that are most like them.

surest = np.flatnonzero(is_wrong)[np.argsort(-why.proba[is_wrong])][:4]
plt.style.use("tableau-colorblind10")
fig, axes = plt.subplots(
    len(surest), 4, figsize=(9, 8), width_ratios=[1, 2, 1, 1], layout="constrained"
)
for row, cells in zip(surest, axes, strict=True):
    cells[0].imshow(new_images[row])
    cells[0].set_title(f"is a {truth[row]}", fontsize=9)
    parts = [why.text_lead[row], why.image_lead[row], why.level_lead[row]]
    cells[1].barh(["name", "images", "level"], parts, color=["C0", "C1", "0.6"])
    cells[1].axvline(0, color="0.3", lw=0.8)
    cells[1].invert_yaxis()
    said = f"said {why.label[row]}, not {why.runner_up[row]}"
    cells[1].set_title(said, fontsize=9)
    for cell, neighbor in zip(cells[2:], why.neighbors[row], strict=True):
        cell.imshow(images[neighbor])
        cell.set_title(f"like a {names[neighbor]}", fontsize=9)
    for cell in cells[[0, 2, 3]]:
        cell.axis("off")
plt.show()

# %%
# With your own images
# --------------------
# - Where the name alone decided for the wrong class, more images of the right one help;
#   where images did, look at the neighbours: their labels may be wrong.
# - ``store_left_out=True`` keeps the support for the neighbours; else pass it,
#   ``support=``.
# - :doc:`/guide/why` says what each number is.
