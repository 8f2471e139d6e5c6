"""Measure which dense mode points best at a named object, on scenes of several.

Run ``python benchmarks/dense_modes.py``. For each mode it prints

- point: how often the patch most similar to an object's name lies in the object's box;
- chance: the same for a random patch;
- label: how often a patch that an object covers is more similar to the name of that
  object than to the names of the others in the scene (chance is one over their number);
- AUC: how well the similarity to a name ranks the object's patches above the others.
  Below 0.5 the similarity is inverted.
"""

import argparse
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from skfewshot.clip import CLIPFeaturizer
from skfewshot.clip._dense import DENSE_MODES
from skfewshot.datasets import BASE_KINDS, NOVEL_KINDS, make_scenes


def patch_owners(masks, side):
    """Say which object covers each patch, -1 where none covers half of it.

    Parameters
    ----------
    masks : ndarray of shape (n, size, size)
        The index of the object at each pixel, -1 for the background.
    side : int
        The number of patches in a row.

    Returns
    -------
    ndarray of shape (n, side * side)
    """
    size = masks.shape[1] // side
    cells = masks.reshape(len(masks), side, size, side, size).swapaxes(2, 3)
    cells = cells.reshape(len(masks), side * side, size * size)
    owners = np.full(cells.shape[:2], -1)
    for number in range(masks.max() + 1):
        owners[(cells == number).mean(axis=-1) >= 0.5] = number
    return owners


def patch_in_box(boxes, size, side):
    """Say of each box whether the middle of each patch lies in it: (k, side * side)."""
    middles = (np.arange(side) + 0.5) * size / side
    left, top, right, bottom = np.asarray(boxes).T[:, :, None]
    across = (middles >= left) & (middles < right)
    down = (middles >= top) & (middles < bottom)
    return (down[:, :, None] & across[:, None, :]).reshape(len(boxes), -1)


def measure(featurizer, scenes, names):
    """Return the figures of one dense mode as a dict."""
    start = time.perf_counter()
    patches = np.asarray(featurizer.transform(scenes.images))[:, 1:]
    seconds = time.perf_counter() - start
    texts = dict(zip(names, np.asarray(featurizer.encode_classes(names)), strict=True))
    size, side = scenes.images.shape[1], int(np.sqrt(patches.shape[1]))
    owners = patch_owners(scenes.masks, side)
    hits, chances, labels, aucs = [], [], [], []
    for row, objects in enumerate(scenes.objects):
        similarity = np.stack([texts[kind] for kind in objects]) @ patches[row].T
        inside = patch_in_box(scenes.boxes[row], size, side)
        best = similarity.argmax(axis=1)
        hits.extend(inside[np.arange(len(objects)), best])
        chances.extend(inside.mean(axis=1))
        owned = owners[row] >= 0
        labels.extend(similarity.argmax(axis=0)[owned] == owners[row][owned])
        for number in range(len(objects)):
            own = owners[row] == number
            if own.any():
                aucs.append(roc_auc_score(own, similarity[number]))
    return {
        "point": np.mean(hits),
        "chance": np.mean(chances),
        "label": np.mean(labels),
        "AUC": np.mean(aucs),
        "images/s": len(patches) / seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pretrained", default=None)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    for title, kinds in (("base kinds", BASE_KINDS), ("novel kinds", NOVEL_KINDS)):
        scenes = make_scenes(
            options.scenes,
            kinds=kinds,
            min_objects=2,
            max_objects=4,
            random_state=options.seed,
        )
        print(f"\n{title}: {options.scenes} scenes of 2 to 4 objects, {options.model}")
        for mode in DENSE_MODES:
            featurizer = CLIPFeaturizer(
                options.model, options.pretrained, output="tokens", dense_mode=mode
            )
            figures = measure(featurizer, scenes, list(kinds))
            shown = "  ".join(f"{key} {value:6.3f}" for key, value in figures.items())
            print(f"{mode:20s} {shown}")


if __name__ == "__main__":
    main()
