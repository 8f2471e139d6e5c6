"""
What the class names are worth
==============================

CLIP has read what people write about pictures. A class name is therefore not a mere
label to it, but a description, and works like some images of the class. But only if
it *is* a description: folders are often called ``n0213``.

Here the same images are learned under good names, under half of each name, under
codes and without any text, and the good names are put into different sentences.
"""

# %%
# Images that are hard to tell apart
# ----------------------------------
# 28 kinds of object, rendered with much noise and clutter. The small model of the
# package was trained on objects of these kinds, as a real CLIP has met most things
# before.

import matplotlib.pyplot as plt
import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images

clip = CLIPFeaturizer("tiny")
look = {"kinds": BASE_KINDS, "clutter": 1.0, "noise": 0.15}
pool = make_object_images(10, random_state=0, **look)
test = make_object_images(25, random_state=1, **look)
X, names = clip.fit_transform(pool.images), pool.labels
X_test, names_test = clip.transform(test.images), test.labels

fig, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
for ax, image, name in zip(axes, pool.images, names, strict=False):
    ax.imshow(image)
    ax.set(xticks=[], yticks=[], xlabel=name)
plt.show()

# %%
# One task, four ways to name it
# ------------------------------
# ``class_names`` says what a label is called in a prompt, so the labels themselves stay
# as they are. ``text_features=None`` leaves texts out.

wordings = {
    "good names, “striped star”": {name: name for name in BASE_KINDS},
    "half a name, “star”": {name: name.split()[1] for name in BASE_KINDS},
    "codes, “n0213”": {name: f"n{200 + i:04d}" for i, name in enumerate(BASE_KINDS)},
}
models = {
    wording: CMMClassifier(class_names=class_names)
    for wording, class_names in wordings.items()
}
models["no text"] = CMMClassifier(text_features=None)

# %%
# Without any image there is zero-shot CLIP, which chooses the name that is nearest.
# With images, :class:`~skfewshot.CMMClassifier` weighs names and images against each
# other. Each point is the mean over four draws of the images.

from skfewshot.model_selection import sample_support

shots = [1, 2, 4, 8]
draws = [[sample_support(names, k, random_state=s) for s in range(4)] for k in shots]
accuracy = {}
for wording, model in models.items():
    accuracy[wording] = [
        np.mean([model.fit(X[r], names[r]).score(X_test, names_test) for r in rows])
        for rows in draws
    ]
zero_shot = {
    wording: ZeroShotClassifier(class_names=class_names)
    .fit(X, names)
    .score(X_test, names_test)
    for wording, class_names in wordings.items()
}

plt.style.use("tableau-colorblind10")
fig, ax = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
places = np.arange(len(shots) + 1)
for (wording, scores), marker in zip(accuracy.items(), "osD^", strict=True):
    (line,) = ax.plot(places[1:], scores, marker=marker, label=wording)
    if wording in zero_shot:
        start = [zero_shot[wording], scores[0]]
        ax.plot(places[:2], start, ":", marker=marker, color=line.get_color())
ax.axhline(1 / len(BASE_KINDS), color="grey", linewidth=1)
ax.text(places[-1], 1 / len(BASE_KINDS) + 0.01, "guessing", ha="right", color="grey")
ax.set_xticks(places, ["none\n(zero-shot)", *map(str, shots)])
ax.set(xlabel="Images a class", ylabel="Accuracy on new images", ylim=(0, 0.75))
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# Read it from the left: what the name alone is worth, and how many images a class
# without text needs to catch up with a good name.


def images_worth(target):
    """Say from which number of images on the images alone are as good."""
    enough = [k for k, a in zip(shots, accuracy["no text"], strict=True) if a >= target]
    return f"{enough[0]} images" if enough else f"more than {shots[-1]} images"


good = "good names, “striped star”"
print(f"good names without any image: {zero_shot[good]:.1%}")
print(f"as good as {images_worth(zero_shot[good])} a class without text")
print(f"good names and 1 image: {accuracy[good][0]:.1%}")
print(f"as good as {images_worth(accuracy[good][0])} a class without text")

# %%
# The sentence around the name
# ----------------------------
# ``prompt_templates`` are sentences with ``{}`` in the place of the name. Several are
# averaged, to an *ensemble*; the library's default is one of seven. The picture has
# zero-shot accuracy, where the sentence matters most.

from skfewshot.clip import DEFAULT_PROMPT_TEMPLATES

templates = {
    "ensemble of the library": DEFAULT_PROMPT_TEMPLATES,
    **{f"“{text}”": [text] for text in DEFAULT_PROMPT_TEMPLATES},
    "the bare name": ["{}"],
    "a wrong one: “a recording of {}.”": ["a recording of {}."],
}
scores = {
    name: ZeroShotClassifier(prompt_templates=prompts, text_encoder=clip)
    .fit(X, names)
    .score(X_test, names_test)
    for name, prompts in templates.items()
}
fig, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
order = sorted(scores, key=scores.get)
colors = ["C1" if name.startswith("ensemble") else "C0" for name in order]
bars = ax.barh(order, [scores[name] for name in order], color=colors, height=0.7)
ax.bar_label(bars, [f"{scores[name]:.1%}" for name in order], padding=4)
ax.set(xlabel="Zero-shot accuracy on new images", xlim=(0, 0.7))
plt.show()

# %%
# Do not read much into a point more or less: it is a few images. Which sentence is the
# best differs from one task to another, and the ensemble saves the choice. The text
# encoder of this small model has only met short captions; that of a large one has more
# to say about the sentence.
#
# With your own classes
# ---------------------
# - Give words that one would find in a caption: "polar bear", not ``n02134084`` and not
#   ``polar_bear``. Where two classes share a word ("crane"), say which one: "crane, a
#   bird", "construction crane".
# - Say what kind of picture it is where that is special: ``"a satellite photo of
#   {}."``, ``"a photo of a {}, a type of flower."``. Write them down once and leave it
#   at that: choosing among them wants more images than a support has. See the example
#   on searching.
# - Look at ``text_trust_`` of a fitted :class:`~skfewshot.CMMClassifier`: a class with
#   little trust has images that its name does not fit. The classifier goes by the
#   images then, but a better name would give more.
# - If no name says anything (``"defect type B"``), pass ``text_features=None``.

# sphinx_gallery_thumbnail_number = 2
