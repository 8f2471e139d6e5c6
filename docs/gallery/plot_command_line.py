"""
From a folder to a table
========================

No Python, or not yet: a folder of photographs becomes a model in a file, and that file
makes a table of new ones, by two commands. This example runs them, and shows what is in
the table and in the file.
"""

# %%
# A folder for each class
# -----------------------
# Rendered images, twelve of each kind, and a folder of new ones: of these kinds, of
# four others, and a file that is no image.

import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from skfewshot.cli import main
from skfewshot.datasets import make_object_images

folder = Path(tempfile.mkdtemp())
kinds = ["striped star", "plain heart", "checked ring", "spotted square"]
others = ["plain cross", "striped moon", "spotted ball", "checked triangle"]
look = {"clutter": 0.6, "noise": 0.1, "return_X_y": True}
images, names = make_object_images(12, kinds=kinds, random_state=0, **look)
for number, (pixels, name) in enumerate(zip(images, names, strict=True)):
    (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
(folder / "new").mkdir()
images, _ = make_object_images(1, kinds=kinds + others, random_state=1, **look)
for number, pixels in enumerate(images):
    Image.fromarray(pixels).save(folder / "new" / f"{number}.png")
_ = (folder / "new" / "broken.png").write_bytes(b"no image")

# %%
# Two commands
# ------------
# ``main`` runs what a terminal runs as ``skfewshot fit photos -o kinds --model tiny``
# and ``skfewshot predict kinds new --csv out.csv``. Both exit with 0.

photos, new, kept = (str(folder / name) for name in ("photos", "new", "kinds"))
status = main(["fit", photos, "-o", kept, "--model", "tiny", "--quiet"])
status += main(["predict", kept, new, "--csv", str(folder / "out.csv"), "--quiet"])
print("exit status:", status)

# %%
# The table
# ---------
# A row an image: its label, the set of classes that it may well be, and whether it is
# *unknown*, of none of them. A file that cannot be read has a row with the reason.

with open(folder / "out.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
readable = [row for row in rows if not row["error"]]
print([row["error"] for row in rows if row["error"]])

fig, axes = plt.subplots(2, 4, figsize=(8, 4.6), layout="constrained")
for row, ax in zip(readable, axes.flat, strict=True):
    ax.imshow(plt.imread(row["path"]))
    ax.axis("off")
    may_be = row["set"] or "no class is likely enough"
    text = "unknown" if row["unknown"] == "yes" else row["label"]
    color = "C3" if row["unknown"] == "yes" else "black"
    ax.set_title(f"{text}\nset: {may_be}", fontsize=7, color=color)
plt.show()

# %%
# Not all of the others are found, and a dark heart is called unknown too:
# :doc:`/guide/thresholds` says how often, on photographs.
#
# What is kept
# ------------
# A folder that :func:`skfewshot.load` reads, with a card that says what it is. The
# weights of the encoder are not in it, and loading runs no code of the file.

print((folder / "kinds" / "README.md").read_text(encoding="utf-8")[:1100])

# %%
# With your own photographs
# -------------------------
# - Leave out ``--model tiny``, which knows rendered objects only.
# - ``--report report.html`` writes a page on what was learned, and
#   ``skfewshot suggest kinds new`` names the images to label next.
# - Started again, ``predict`` goes on with the images that have no row yet.
# - :doc:`/guide/command-line` and :doc:`/guide/saving` have the rest.
