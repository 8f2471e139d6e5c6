"""
Several labels an image, and where the evidence lies
====================================================

A photograph shows a street, a dog and a bicycle, and you have a few images of each.
Which labels does a new image have, and *where* did the classifier see them?

One embedding of the whole image is mostly about everything else than the label in
question. :class:`~skfewshot.MultiLabelPrototypeClassifier` looks at the patches
instead, and can therefore show them.
"""

# %%
# Scenes with several objects
# ---------------------------
# :func:`~skfewshot.datasets.make_scenes` renders scenes of one to four objects out of
# twelve kinds, none of which the small model was trained on. We take a support in
# which each label is shown by five images at least: an image counts for all its labels.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, MultiLabelPrototypeClassifier
from skfewshot.datasets import NOVEL_KINDS, make_scenes
from skfewshot.model_selection import sample_support

names = list(NOVEL_KINDS)
pool = make_scenes(150, kinds=names, random_state=0)
test = make_scenes(200, kinds=names, random_state=1)
rows = sample_support(pool.labels, 5, random_state=0)
images, Y = pool.images[rows], pool.labels[rows]
print(f"{len(images)} images, {Y.sum(axis=0).min()} or more of each label")

# %%
# Fit and predict
# ---------------
# ``output="tokens"`` gives an embedding for each patch beside that of the image. ``Y``
# has a column for each label, of zeros and ones, as scikit-learn has it.

from sklearn.pipeline import make_pipeline

model = make_pipeline(
    CLIPFeaturizer("tiny", output="tokens"),
    MultiLabelPrototypeClassifier(label_names=names),
)
model.fit(images, Y)
probabilities = model.predict_proba(test.images)
probabilities.shape

# %%
# How good is it? Mean average precision asks whether images with a label come before
# those without. Beside it, a logistic regression for each label on embeddings of the
# whole image, learned from the same scenes.

from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier

from skfewshot.metrics import mean_average_precision

whole = CLIPFeaturizer("tiny")
probe = MultiOutputClassifier(LogisticRegression(C=10, max_iter=1000))
probe.fit(whole.fit_transform(images), Y)
per_label = probe.predict_proba(whole.transform(test.images))
probe_scores = np.column_stack([p[:, 1] for p in per_label])
for name, scores in [("patches", probabilities), ("whole image", probe_scores)]:
    print(f"{name:12} {mean_average_precision(test.labels, scores):.1%}")

# %%
# Look at the evidence
# --------------------
# :class:`~skfewshot.display.EvidenceMapDisplay` puts the evidence of each patch over
# the picture, for the labels of highest probability. Inside the thin line a patch
# speaks for the label. With the true labels given, it marks what is right (✓), wrong
# (✗) and missed. These are the first four test scenes with three objects or more.

from skfewshot.display import EvidenceMapDisplay

shown = np.flatnonzero(test.labels.sum(axis=1) >= 3)[:4]
EvidenceMapDisplay.from_estimator(model, test.images[shown], test.labels[shown])
plt.show()

# %%
# Does it look at the right place?
# --------------------------------
# The renderer knows the box of each object, so that this can be counted: is the
# strongest patch of a true label in the box of its object? A patch picked at random
# would be there as often as the box is large.

tokens = model[0].transform(test.images)
evidence = model[-1].explain(tokens)
centres = (np.arange(8) + 0.5) * 64 / 8  # 8 x 8 patches of an image of 64 pixels
hits, chances = [], []
for image, (objects, boxes) in enumerate(zip(test.objects, test.boxes, strict=True)):
    for kind, (left, top, right, bottom) in zip(objects, boxes, strict=True):
        inside_x = (left <= centres) & (centres < right)
        inside_y = (top <= centres) & (centres < bottom)
        inside = (inside_y[:, None] & inside_x).ravel()
        hits.append(inside[evidence[image, names.index(kind)].argmax()])
        chances.append(inside.mean())
print(f"strongest patch in the box: {np.mean(hits):.0%}")
print(f"by chance: {np.mean(chances):.0%}")

# %%
# Where it goes wrong
# -------------------
# The same display helps with errors. Here are the two scenes with the most confident
# wrong label; the wrong one is in the first or second map. A map on another object
# tells of look-alikes; a map on the background tells of a label that was learned from
# its surroundings.

wrong = np.where(test.labels == 1, 0, probabilities)
worst = np.argsort(-wrong.max(axis=1))[:2]
EvidenceMapDisplay.from_estimator(model, test.images[worst], test.labels[worst])
plt.show()

# %%
# With your own images
# --------------------
# - ``Y`` may be a data frame whose columns are the labels; their names are used then.
#   From lists of labels, :class:`~sklearn.preprocessing.MultiLabelBinarizer` makes it.
# - Name what can be seen: "bicycle" has a place in the picture, "holiday" has none.
# - Labels of which ``Y`` says 0 must really be absent, or the classifier learns that
#   they do not belong.
# - ``predict`` takes labels with a probability of one half or more; the example on
#   thresholds shows how to choose.

# sphinx_gallery_thumbnail_number = 1
