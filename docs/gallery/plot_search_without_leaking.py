"""
Searching parameters without fooling yourself
=============================================

There is a weight to turn, prompts to word and methods to choose from, and a few
dozen labelled images that were kept aside. It is tempting to try everything, to keep
what scores best on these, and to report that score. How wrong is the number?

Very often a little, with few test images a lot: the winner was chosen *because* it
was lucky on them.
"""

# %%
# The tempting way
# ----------------
# Ten kinds of object, rendered with noise and clutter, three images of each to learn
# from, and four of each to test on. Because images can be rendered at will, there are
# many others too, which tell how good the winner really is. You will not have these.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, ParameterGrid

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images
from skfewshot.model_selection import sample_support

look = {"kinds": BASE_KINDS[::3], "clutter": 1.0, "noise": 0.15}
pool, names = make_object_images(20, return_X_y=True, random_state=0, **look)
new_images, truth = make_object_images(90, return_X_y=True, random_state=1, **look)
clip = CLIPFeaturizer("tiny")
X, X_new = clip.fit_transform(pool), clip.transform(new_images)
classes = np.unique(names)
# The names are encoded once, and not in each of the fits to come.
wordings = [None, ["{}"], ["a drawing of a {}."]]  # The first are those of the library.
texts = [
    dict(zip(classes, clip.encode_classes(classes.tolist(), templates), strict=True))
    for templates in wordings
]

# %%
# Twelve candidates, on twelve different draws of support and test images. The other
# way needs no test images for choosing: :class:`~sklearn.model_selection.GridSearchCV`
# searches by cross-validation *within* the support, and the test images are used once.

grid = {"text_features": texts, "alpha": ["auto", 0.3, 1.0, 3.0]}
candidates = [CMMClassifier(**parameters) for parameters in ParameterGrid(grid)]
search = GridSearchCV(CMMClassifier(), grid, cv=3)
reported = {"on the test images": [], "within the support": []}
really = {name: [] for name in [*reported, "defaults"]}
for seed in range(12):
    support = sample_support(names, 3, random_state=seed)
    learn = X[support], names[support]
    test = sample_support(truth, 4, random_state=seed)
    others = np.setdiff1d(np.arange(len(truth)), test)
    few, many = ((X_new[rows], truth[rows]) for rows in (test, others))

    scores = [model.fit(*learn).score(*few) for model in candidates]
    winner = candidates[int(np.argmax(scores))]
    reported["on the test images"].append(max(scores))
    really["on the test images"].append(winner.score(*many))

    search.fit(*learn)
    reported["within the support"].append(search.score(*few))
    really["within the support"].append(search.score(*many))

    really["defaults"].append(CMMClassifier(texts[0]).fit(*learn).score(*many))

# %%
# Reported and real
# -----------------
# Each line is one draw: on the left what would be reported, on the right how the same
# classifier does on many new images. Chance makes lines go up and down. On the whole
# they should not go down, by more than the standard error that is printed below.

plt.style.use("tableau-colorblind10")
fig, axes = plt.subplots(1, 2, figsize=(8, 4.4), sharey=True, layout="constrained")
for ax, (way, values), color in zip(axes, reported.items(), ["C1", "C0"], strict=True):
    pairs = np.array([values, really[way]])
    ax.plot([0, 1], pairs, color="0.75", marker=".", zorder=1)
    ax.plot([0, 1], pairs.mean(axis=1), color=color, marker="o", linewidth=3)
    for place, mean in enumerate(pairs.mean(axis=1)):
        shift = -0.08 if place == 0 else 0.08
        align = "right" if place == 0 else "left"
        ax.text(place + shift, mean, f"{mean:.1%}", ha=align, va="center", color=color)
    ax.set_xticks([0, 1], ["reported", "on many\nnew images"])
    ax.set(title=f"Chosen {way}", xlim=(-0.45, 1.45))
axes[0].set_ylabel("Accuracy")
plt.show()

for way, values in reported.items():
    optimism = 100 * np.subtract(values, really[way])
    error = optimism.std(ddof=1) / np.sqrt(len(optimism))
    print(f"chosen {way}: {optimism.mean():+.1f} points too high (± {error:.1f})")

# %%
# Was it worth searching?
# -----------------------
# A search costs accuracy too if there is little to choose by. The default finds its
# weight in the fit, by images that it leaves out, and takes prompts as they are.

for way, values in really.items():
    print(f"{way:20} {np.mean(values):.1%} on many new images")

# %%
# From images: a cache, so that folds cost nothing
# ------------------------------------------------
# In a pipeline that starts with images, scikit-learn's searches embed them again in
# every fold and for every candidate. With ``cache`` each image is embedded once, and a
# later run starts from there.

import tempfile
from time import perf_counter

from sklearn.pipeline import Pipeline

seconds = {}
with tempfile.TemporaryDirectory() as folder:
    for cache in (None, folder):
        model = Pipeline(
            [("clip", CLIPFeaturizer("tiny", cache=cache)), ("cmm", CMMClassifier())]
        )
        grid_search = GridSearchCV(model, {"cmm__alpha": ["auto", 1.0, 3.0]}, cv=3)
        start = perf_counter()
        grid_search.fit(pool, names)
        seconds["with cache" if cache else "without"] = perf_counter() - start
for name, time in seconds.items():
    print(f"{name:12} {time:.1f} s")

# %%
# With your own images
# --------------------
# - Put the test images away before the first experiment. Whatever was chosen by them, a
#   prompt, a method, a threshold, makes their score too good.
# - Choose within the support, as :class:`~sklearn.model_selection.GridSearchCV` does,
#   over the whole pipeline if something in it learns from the images.
# - With less than some five images a class do not search at all: take the defaults.
# - Several photographs of the same animal, patient or day belong on one side of the
#   split: :class:`~sklearn.model_selection.StratifiedGroupKFold`.

# sphinx_gallery_thumbnail_number = 1
