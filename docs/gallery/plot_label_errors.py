"""
Finding wrong labels
====================

Somebody labelled the images by hand, in a hurry. With a few images a class, a single
wrong label is a large part of what a class is learned from. Which ones should be
looked at again?

Let a classifier that has *not* seen an image say how probable its label is. Labels
that it finds improbable come first. :class:`~skfewshot.CMMClassifier` leaves each image
out in its fit anyway, and keeps what it finds.
"""

# %%
# Plant errors
# ------------
# Twelve kinds of object that the small model of the package was never trained on, with
# noise and clutter, ten images of each. One label in ten is replaced by another one, at
# random.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images
from skfewshot.inspection import label_issues

look = {"kinds": NOVEL_KINDS, "clutter": 1.0, "noise": 0.1}
images, truth = make_object_images(10, return_X_y=True, random_state=0, **look)
new_images, new_truth = make_object_images(40, return_X_y=True, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(images), clip.transform(new_images)

rng = np.random.default_rng(0)
classes = np.unique(truth)
planted = rng.choice(len(truth), len(truth) // 10, replace=False)
given = truth.copy()
for row in planted:
    given[row] = rng.choice(classes[classes != truth[row]])
is_wrong = given != truth
print(f"{is_wrong.sum()} of {len(given)} labels are wrong")

# %%
# How probable is each label?
# ---------------------------
# Every image is judged by the classifier without it. Labels that it doubts have lost
# their weight by then: ``n_iter_`` says how often it weighed them anew.

model = CMMClassifier(store_left_out=True).fit(X, given)
print(f"solved {model.n_iter_} times")
issues = label_issues(model)
suspects, probabilities = issues.rows, issues.proba
print(f"{issues.is_issue.sum()} labels are likely wrong")

# %%
# The suspects
# ------------
# The twelve images whose labels are least probable, with the label they were given, the
# one that is suggested, and whether the label was planted.

fig, axes = plt.subplots(3, 4, figsize=(8, 8.2), layout="constrained")
fig.get_layout_engine().set(h_pad=0.12)
for place, (ax, row) in enumerate(zip(axes.flat, suspects, strict=False)):
    suggestion = issues.suggested[place]
    ax.imshow(images[row])
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"given: {given[row]}\nsuggested: {suggestion}", fontsize=9)
    verdict = "planted error" if is_wrong[row] else "label was right"
    color = "#b35900" if is_wrong[row] else "#0072B2"
    ax.set_xlabel(
        f"{verdict} (p = {probabilities[place]:.3f})", fontsize=9, color=color
    )
plt.show()

# %%
# How many must be looked at?
# ---------------------------
# The labels are looked through from the least probable on. The dotted line is that of
# looking in no order.

found = is_wrong[suspects].cumsum()
looked = np.arange(1, len(given) + 1)
plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(6.8, 4), layout="constrained")
ax.step(looked, found, where="post", label="least probable first")
ax.plot(looked, looked * is_wrong.mean(), ":", color="0.4", label="in no order")
ax.axvline(is_wrong.sum(), color="0.8", zorder=0)
ax.text(is_wrong.sum() + 1, 0.3, "as many as there are errors", color="0.4")
ax.set(xlabel="Labels looked at", ylabel="Wrong labels found")
ax.legend(loc="center right")
plt.show()

n_errors = is_wrong.sum()
print(f"among the first {n_errors}: {found[n_errors - 1]} of {n_errors} errors")
print(f"all found after {looked[found == n_errors][0]} of {len(given)} labels")

# %%
# Is it worth it?
# ---------------
# Somebody looks at the fifteen least probable labels and corrects those that are wrong.
# Compare the accuracy on new images, whose labels are right, before and after. There is
# less to gain than one would think, as labels in doubt count for little.

checked = given.copy()
checked[suspects[:15]] = truth[suspects[:15]]
for name, labels in [
    ("with the errors", given),
    ("15 labels checked", checked),
    ("never an error", truth),
]:
    accuracy = CMMClassifier().fit(X, labels).score(X_new, new_truth)
    print(f"{name:18} {accuracy:.1%}")

# %%
# With your own images
# --------------------
# - Look at the suspects, do not drop them blindly: a label can be right and the image
#   unusual, and such images teach most.
# - Wrong labels that follow a rule, such as two classes that are always confused, are
#   learned by the classifier and do not stand out.
# - Near copies leave together, but two photographs of one thing with one wrong label
#   vouch for each other: say by ``groups`` which belong together.
# - For other classifiers :func:`~sklearn.model_selection.cross_val_predict` gives such
#   probabilities, with ``class_names=classes``, as it numbers the classes.
# - `cleanlab <https://docs.cleanlab.ai>`_ takes the same probabilities,
#   ``model.left_out_proba_``, has other ways to tell which are errors, and says how
#   many there are.

# sphinx_gallery_thumbnail_number = 1
