"""
What did it learn?
==================

A classifier is fitted, and its accuracy is a number. Which classes are mixed up, which
labels are wrong, which photograph is there twice, and what should be labelled next? A
report shows it on one page.
"""

# %%
# Data as it comes
# ----------------
# Twelve kinds of object, eight images of each. Three labels are wrong, and one image is
# there twice, the second time with a dark edge.

import numpy as np

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images
from skfewshot.inspection import Report

look = {"kinds": NOVEL_KINDS, "clutter": 1.0, "noise": 0.1}
images, names = make_object_images(8, return_X_y=True, random_state=0, **look)
rng = np.random.default_rng(1)
for row in rng.choice(len(names), 3, replace=False):
    names[row] = rng.choice(NOVEL_KINDS)
copy = images[7].copy()
copy[:3] = copy[:3] // 2
images, names = [*images, copy], np.append(names, names[7])
pool = make_object_images(8, random_state=1, **look).images

# %%
# The report
# ----------
# ``store_left_out=True`` keeps what the classifier says of each image without it, so
# that no image has to be kept aside. `X_pool` are images without labels.

from sklearn.pipeline import make_pipeline

# sphinx_gallery_thumbnail_path = "images/report.png"
model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(store_left_out=True))
model.fit(images, names)
report = Report(model, images, names, X_pool=list(pool))
report

# %%
# With your own images
# --------------------
# ``report.save("report.html")`` writes the page to a file that needs no other. From a
# folder with a folder of images for each class::
#
#     skfewshot fit photos -o model.skops --report report.html
#
# :doc:`/guide/report` says what each part is made of.
