"""
From five images a class to a classifier
========================================

You have five images of each of six classes, and you know what the classes are called.
How far does that get you?

The images are rendered, and the encoder is the small model that comes with the
package, so that this page can be built without a network. With photographs only the
name of the model changes.
"""

# %%
# The images
# ----------
# :func:`~skfewshot.datasets.make_object_images` gives an array of images and an array
# of names. We learn from five of each class and keep twenty of each aside. The small
# model was never trained on any of these six classes.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot.datasets import make_object_images

classes = [
    "checked ring",
    "plain cross",
    "plain heart",
    "spotted ball",
    "spotted flower",
    "striped moon",
]
images, names = make_object_images(
    5, kinds=classes, shuffle=False, return_X_y=True, random_state=0
)
new_images, new_names = make_object_images(
    20, kinds=classes, return_X_y=True, random_state=1
)

fig, axes = plt.subplots(6, 5, figsize=(5.6, 6), layout="constrained")
for ax, image in zip(axes.flat, images, strict=True):
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], classes, strict=True):
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
fig.suptitle("All that the classifier learns from")
plt.show()

# %%
# The classifier
# --------------
# A pipeline of two steps, like any other in scikit-learn.
# :class:`~skfewshot.CLIPFeaturizer` turns an image into an embedding by a frozen CLIP
# model: nothing in it is trained. :class:`~skfewshot.CMMClassifier` learns from the
# embeddings, and asks the same CLIP model for the embeddings of the class *names*.

from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier

model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())
model.fit(images, names)

# %%
# Where the names went in
# -----------------------
# ``prototype_source_`` says where the texts came from: ``"embedding"`` means that the
# embeddings knew their model, which then encoded the names. It is worth a look, because
# without texts the classifier works too, from the images alone.

accuracy = model.score(new_images, new_names)
print(f"texts from: {model[-1].prototype_source_}")
print(
    f"accuracy on {len(new_names)} new images: {accuracy:.0%} (guessing: {1 / 6:.0%})"
)

# %%
# What it says about new images
# -----------------------------
# Two new images of each class, the first ones whatever comes out. Below each image is
# the predicted name with its probability; bold orange is wrong, with the true name
# in brackets.

shown = np.concatenate([np.flatnonzero(new_names == name)[:2] for name in classes])
probabilities = model.predict_proba(new_images[shown])
fig, axes = plt.subplots(2, 6, figsize=(10, 4.1), layout="constrained")
for ax, row, p in zip(axes.T.flat, shown, probabilities, strict=True):
    guess, truth = model.classes_[p.argmax()], new_names[row]
    ax.imshow(new_images[row])
    ax.set(xticks=[], yticks=[])
    if guess == truth:
        ax.set_xlabel(f"{guess}\n{p.max():.0%}")
    else:
        label = f"{guess}\n{p.max():.0%} (is {truth})"
        ax.set_xlabel(label, color="#b35900", fontweight="bold")
fig.suptitle("New images: predicted name and its probability")
plt.show()

# %%
# A low probability is a hint that the name may be wrong, and no more than a hint: a
# classifier can also be sure and wrong. The examples on thresholds and on calibration
# show how far the probabilities can be relied upon.
#
# Your own images
# ---------------
# A list of paths, of PIL images or of arrays takes the place of ``images``::
#
#     from pathlib import Path
#
#     paths = sorted(Path("photos").glob("*/*.jpg"))      # photos/polar_bear/1.jpg
#     names = [path.parent.name.replace("_", " ") for path in paths]
#     model = make_pipeline(CLIPFeaturizer(), CMMClassifier()).fit(paths, names)
#
# ``CLIPFeaturizer()`` is a real CLIP, whose weights are downloaded when first used. The
# small model of this page knows rendered objects only: do not use it on photographs.
