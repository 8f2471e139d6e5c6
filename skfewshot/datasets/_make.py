"""The public makers of images and scenes."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.utils import Bunch

from skfewshot._sklearn import check_number
from skfewshot.datasets._kinds import BASE_KINDS, KINDS, random_caption
from skfewshot.datasets._render import Look, Placement, render

Seed: TypeAlias = int | np.random.RandomState | np.random.Generator | None


def make_object_images(
    n_per_class: int = 16,
    *,
    kinds: Sequence[str] | None = None,
    image_size: int = 64,
    clutter: float = 0.5,
    noise: float = 0.05,
    shuffle: bool = True,
    return_X_y: bool = False,
    random_state: Seed = None,
) -> Any:
    """Render images with one object each, for single-label few-shot learning.

    An object has a surface (checked, plain, spotted, striped) and a shape (arrow,
    ball, cross, ...); together they are its kind, "striped star" for one. Colours,
    size, rotation, place, background, lighting and noise vary from image to image.

    Parameters
    ----------
    n_per_class : int, default=16
        How many images of each kind, at least 1.
    kinds : sequence of str or None, default=None
        The kinds to draw, out of ``KINDS`` and without repeats; None draws all 40.
        ``NOVEL_KINDS`` are those that the embedded model has never seen.
    image_size : int, default=64
        Height and width of the images in pixels, at least 16.
    clutter : float, default=0.5
        How much of distractor fragments and strokes, from 0 (none) to 1.
    noise : float, default=0.05
        Standard deviation of the pixel noise on average, from 0 (none) to 1, where 1
        is the whole range of a pixel.
    shuffle : bool, default=True
        Whether the images come in random order; otherwise kind after kind.
    return_X_y : bool, default=False
        Whether to return only ``(images, labels)``.
    random_state : int, RandomState, Generator or None, default=None
        Seed or source of randomness. The same int gives the same pixels; None gives
        others at every call. The global generator is neither read nor changed.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With n = ``n_per_class * len(kinds)``:

        images : uint8 array of shape (n, image_size, image_size, 3)
            RGB pixels.
        labels : str array of shape (n,)
            The kind of the object.
        boxes : int64 array of shape (n, 4)
            Left, top, right and bottom of the object in pixels; right and bottom are
            exclusive.
        masks : bool array of shape (n, image_size, image_size)
            The pixels that the object covers, in part at least.
        colors : str array of shape (n,)
            The main colour of the object.
        backgrounds : str array of shape (n,)
            The colour of the background.
        captions : list of n str
            One caption an image, such as "a photo of a striped star."
        kinds : tuple of str
            The kinds in the order asked for.

    (images, labels) : tuple if ``return_X_y=True``

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or an impossible value.

    See Also
    --------
    make_scenes : Several objects an image, for multi-label learning.

    Examples
    --------
    >>> from skfewshot.datasets import make_object_images
    >>> images, labels = make_object_images(
    ...     2, kinds=["striped star", "plain heart"], return_X_y=True, random_state=0
    ... )
    >>> images.shape, images.dtype
    ((4, 64, 64, 3), dtype('uint8'))
    >>> sorted(labels.tolist())
    ['plain heart', 'plain heart', 'striped star', 'striped star']
    """
    n_per_class = check_number("n_per_class", n_per_class, 1)
    kinds = _check_kinds(kinds, KINDS)
    look = _check_look(image_size, clutter, noise)
    rng = _check_generator(random_state)
    labels = np.repeat(np.array(kinds), n_per_class)
    if shuffle:
        rng.shuffle(labels)
    drawings, captions = [], []
    for kind in labels.tolist():
        radius = look.image_size * rng.uniform(0.22, 0.42)
        center = rng.uniform(radius, look.image_size - radius, 2)
        placement = Placement(kind, tuple(center), radius)
        drawing = render(rng, [placement], look)
        drawings.append(drawing)
        captions.append(random_caption(rng, [kind], drawing.colors, drawing.background))
    images = np.stack([drawing.image for drawing in drawings])
    if return_X_y:
        return images, labels
    masks = np.stack([drawing.mask for drawing in drawings])
    return Bunch(
        images=images,
        labels=labels,
        boxes=np.concatenate([_boxes(mask, 1) for mask in masks]),
        masks=masks >= 0,
        colors=np.array([drawing.colors[0] for drawing in drawings]),
        backgrounds=np.array([drawing.background for drawing in drawings]),
        captions=captions,
        kinds=kinds,
    )


def make_scenes(
    n_samples: int = 100,
    *,
    kinds: Sequence[str] | None = None,
    min_objects: int = 1,
    max_objects: int = 4,
    image_size: int = 64,
    clutter: float = 0.5,
    noise: float = 0.05,
    random_state: Seed = None,
) -> Bunch:
    """Render scenes of several objects in different places, for multi-label learning.

    Parameters
    ----------
    n_samples : int, default=100
        How many scenes, at least 1.
    kinds : sequence of str or None, default=None
        The kinds to draw from, out of ``KINDS`` and without repeats; None draws from
        ``BASE_KINDS``. All objects of a scene differ in kind.
    min_objects, max_objects : int, default=1 and 4
        The number of objects of a scene is uniform between these two, from 1 to 4.
        No scene has more objects than there are kinds.
    image_size, clutter, noise, random_state
        As in :func:`make_object_images`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With n = `n_samples` and k = the number of objects of a scene:

        images : uint8 array of shape (n, image_size, image_size, 3)
            RGB pixels.
        labels : int64 array of shape (n, len(kinds))
            Multi-hot: 1 where the kind of that column is in the scene.
        captions : list of n str
            One caption a scene, such as "a photo of a striped star and a plain
            heart." It names every object, in the order of `objects`.
        objects : list of n lists of k str
            The kind of each object.
        boxes : list of n int64 arrays of shape (k, 4)
            Left, top, right and bottom of each object in pixels; right and bottom
            are exclusive.
        masks : int8 array of shape (n, image_size, image_size)
            The position in `objects` of the object that covers the pixel; -1 for the
            background.
        colors : list of n lists of k str
            The main colour of each object.
        backgrounds : str array of shape (n,)
            The colour of the background.
        kinds : tuple of str
            The kind of each column of `labels`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or an impossible value.

    See Also
    --------
    make_object_images : One object an image, for single-label learning.

    Examples
    --------
    >>> from skfewshot.datasets import make_scenes
    >>> scenes = make_scenes(5, min_objects=2, max_objects=2, random_state=0)
    >>> scenes.images.shape, scenes.labels.shape
    ((5, 64, 64, 3), (5, 28))
    >>> scenes.labels.sum(axis=1)
    array([2, 2, 2, 2, 2])
    >>> len(scenes.objects[0]), scenes.boxes[0].shape
    (2, (2, 4))
    """
    n_samples = check_number("n_samples", n_samples, 1)
    kinds = _check_kinds(kinds, BASE_KINDS)
    min_objects = check_number("min_objects", min_objects, 1, min(4, len(kinds)))
    max_objects = check_number("max_objects", max_objects, min_objects, 4)
    max_objects = min(max_objects, len(kinds))
    look = _check_look(image_size, clutter, noise)
    rng = _check_generator(random_state)
    labels = np.zeros((n_samples, len(kinds)), dtype=np.int64)
    drawings, objects, boxes, captions = [], [], [], []
    for row in labels:
        n_objects = int(rng.integers(min_objects, max_objects, endpoint=True))
        chosen = rng.choice(len(kinds), n_objects, replace=False)
        row[chosen] = 1
        names = [kinds[index] for index in chosen]
        drawing = render(rng, _arrange(rng, names, look.image_size), look)
        drawings.append(drawing)
        objects.append(names)
        boxes.append(_boxes(drawing.mask, n_objects))
        captions.append(random_caption(rng, names, drawing.colors, drawing.background))
    return Bunch(
        images=np.stack([drawing.image for drawing in drawings]),
        labels=labels,
        captions=captions,
        objects=objects,
        boxes=boxes,
        masks=np.stack([drawing.mask for drawing in drawings]),
        colors=[drawing.colors for drawing in drawings],
        backgrounds=np.array([drawing.background for drawing in drawings]),
        kinds=kinds,
    )


def _arrange(rng: np.random.Generator, names: list[str], size: int) -> list[Placement]:
    """Give each object of a scene a cell of its own, so that none covers another."""
    if len(names) == 1:
        radius = size * rng.uniform(0.16, 0.36)
        center = rng.uniform(radius, size - radius, 2)
        return [Placement(names[0], tuple(center), radius)]
    # The cells' common corner wanders, so that places and sizes are not four fixed.
    split = size * rng.uniform(0.42, 0.58, 2)
    cells = rng.choice(4, len(names), replace=False)
    placements = []
    for name, cell in zip(names, cells, strict=True):
        right, lower = cell % 2, cell // 2
        low = np.where([right, lower], split, 0)
        high = np.where([right, lower], size, split)
        radius = rng.uniform(0.38, 0.48) * (high - low).min()
        center = rng.uniform(low + radius, high - radius)
        placements.append(Placement(name, tuple(center), radius))
    return placements


def _boxes(mask: NDArray[np.int8], n_objects: int) -> NDArray[np.int64]:
    """Return left, top, right, bottom of objects 0..n_objects-1, (n_objects, 4)."""
    objects = (Image.fromarray(mask == index) for index in range(n_objects))
    return np.array([image.getbbox() for image in objects], dtype=np.int64)


def _check_look(image_size: Any, clutter: Any, noise: Any) -> Look:
    return Look(
        check_number("image_size", image_size, 16),
        check_number("clutter", clutter, 0, 1, Real),
        check_number("noise", noise, 0, 1, Real),
    )


def _check_kinds(kinds: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    if kinds is None:
        return default
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise TypeError(f"kinds must be a sequence of names; got {kinds!r}.")
    names = list(kinds)
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise ValueError(
            f"kinds must be among skfewshot.datasets.KINDS, such as {KINDS[0]!r}; "
            f"got {unknown!r}."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"kinds must not repeat a name; got {names!r}.")
    return tuple(map(str, names))


def _check_generator(random_state: Any) -> np.random.Generator:
    """Return a Generator; an int always gives the same one."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31, size=4))
    if not isinstance(random_state, np.random.Generator | None):
        random_state = check_number("random_state", random_state, 0)
    return np.random.default_rng(random_state)
