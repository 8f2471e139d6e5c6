"""Reading the real CLIP features; the rows that tune are never those that report."""

import numpy as np

#: The shots that each data set has supports for.
SHOTS = {
    "dtd47": (1, 2, 4, 8, 16),
    "pets25": (1, 2, 4, 8, 16),
    "flowers102": (1, 2, 4, 8, 16),
    "imagenet1000": (1, 2, 4),
}
#: Two ImageNet rows closer than this show the same photograph.
NEAR_DUPLICATE = 0.97
#: Standard deviation, on each of 512 coordinates, of what is added to a row that stands
#: in for another image; the two then have a cosine of about 0.9.
STAND_IN_NOISE = 0.02
#: Sets of ImageNet whose rows make a support of so many shots; one entry a seed.
IMAGENET_SUPPORTS = {
    1: [["train1"], ["train1b"]],
    2: [["train2"]],
    4: [["train1", "train1b", "train2"]],
}


def load(path):
    """Return the arrays of a file, features and texts with unit rows in float32."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    for key, value in arrays.items():
        if key.endswith("_X") or key == "text":
            value = value.astype(np.float32)
            arrays[key] = value / np.linalg.norm(value, axis=1, keepdims=True)
        elif key.endswith("_y"):
            arrays[key] = value.astype(np.int64)
    return arrays


def draw_rows(y, shots, seed):
    """Return the indices of `shots` rows of each class, or of all that it has."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.permutation(np.flatnonzero(y == c))[:shots] for c in np.unique(y)]
    )


def imagenet_support(data, shots, seed):
    """Return the support (X, y) of a seed, or None where there are no more seeds."""
    choices = IMAGENET_SUPPORTS[shots]
    if seed >= len(choices):
        return None
    return tuple(
        np.concatenate([data[f"{part}_{key}"] for part in choices[seed]])
        for key in "Xy"
    )


def imagenet_queries(data, support, part):
    """Return (X, y) of one half of `train4`, or of all, without the support's twins.

    Parameters
    ----------
    part : {"tuning", "report", "all"}
        Defaults are chosen on the first half and reported on the second.
    """
    shuffled = np.random.default_rng(0).permutation(len(data["train4_X"]))
    start, step = {"tuning": (0, 2), "report": (1, 2), "all": (0, 1)}[part]
    rows = shuffled[start::step]
    X, y = data["train4_X"][rows], data["train4_y"][rows]
    nearest = [(block @ support.T).max(axis=1) for block in np.array_split(X, 8)]
    new = np.concatenate(nearest) <= NEAR_DUPLICATE
    return X[new], y[new]


def view_support(data, largest, shots, seed):
    """Return the support (X, y) of a seed from rows of ten views, or None.

    Seed 0 takes the support that comes with the data; others draw from the `largest`.
    """
    if seed == 0:
        return data[f"train{shots}_X"], data[f"train{shots}_y"]
    if shots == largest:
        return None
    X, y = data[f"train{largest}_X"], data[f"train{largest}_y"]
    rows = draw_rows(y, shots, seed)
    return X[rows], y[rows]


def load_task(path, shots, seed, whole_imagenet):
    """Return (support X, support y, query X, query y, text or None), or None.

    Seed 0 of the data sets with supports of their own takes those; other seeds draw
    from the largest support there is. None says that no further support exists.
    """
    data = load(path)
    text = data.get("text")
    if path.stem == "imagenet1000":
        support = imagenet_support(data, shots, seed)
        if support is None:
            return None
        part = "all" if whole_imagenet else "report"
        return *support, *imagenet_queries(data, support[0], part), text
    if path.stem == "dtd47":
        X, y = data["val_X"], data["val_y"]
        rows = draw_rows(y, shots, seed)
    else:
        found = view_support(data, max(SHOTS[path.stem]), shots, seed)
        if found is None:
            return None
        return *found, data["test_X"], data["test_y"], text
    return X[rows], y[rows], data["test_X"], data["test_y"], text


def timing_support(folder, n_classes, shots, seed=0):
    """Return a support (X, y, text) of any size, for measuring time, not accuracy.

    DTD has 47 classes; any other number is drawn from those of ImageNet. Where a class
    has fewer rows than `shots`, its rows come again with noise.
    """
    rng = np.random.default_rng(seed)
    is_dtd = n_classes == 47
    data = load(folder / f"{'dtd47' if is_dtd else 'imagenet1000'}.npz")
    parts = ["val"] if is_dtd else ["train1", "train1b", "train2", "train4"]
    X, y = (np.concatenate([data[f"{part}_{key}"] for part in parts]) for key in "Xy")
    classes = np.sort(rng.permutation(len(data["text"]))[:n_classes])
    supports = [stand_ins(X[y == c], shots, rng) for c in classes]
    y = np.repeat(np.arange(n_classes), shots)
    return np.concatenate(supports), y, data["text"][classes]


def stand_ins(X, n_rows, rng):
    """Return so many unit rows: those there are, then the same again with noise."""
    rows = np.arange(n_rows)
    taken = X[rows % len(X)]
    noise = rng.normal(scale=STAND_IN_NOISE, size=taken.shape).astype(X.dtype)
    noise[rows < len(X)] = 0
    taken = taken + noise
    return taken / np.linalg.norm(taken, axis=1, keepdims=True)


def draw_task(name, data, shots, seed):
    """Support of some rows a class, and tuning rows that are not among them."""
    if name == "imagenet1000":
        X, y = imagenet_support(data, shots, 0)
        return X, y, *imagenet_queries(data, X, "tuning"), data["text"]
    pool = "val" if name == "dtd47" else "train16"
    X, y = data[f"{pool}_X"], data[f"{pool}_y"]
    rows = draw_rows(y, shots, seed)
    if pool == "val":
        rest = np.setdiff1d(np.arange(len(y)), rows)
        return X[rows], y[rows], X[rest], y[rest], data["text"]
    return X[rows], y[rows], data["val_X"], data["val_y"], data.get("text")


def keep_classes(task, n_classes, seed):
    X, y, X_query, y_query, text = task
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.permutation(len(text))[:n_classes])
    seen, asked = np.isin(y, classes), np.isin(y_query, classes)
    return (
        X[seen],
        np.searchsorted(classes, y[seen]),
        X_query[asked],
        np.searchsorted(classes, y_query[asked]),
        text[classes],
    )
