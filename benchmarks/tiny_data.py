"""Images and captions that the embedded model is trained on."""

import numpy as np

from skfewshot.datasets import BASE_KINDS, COLORS, make_object_images, make_scenes

PATCH, GRID, MAX_OBJECTS = 8, 8, 4
KIND_ID = {kind: index for index, kind in enumerate(BASE_KINDS)}
_COLOR_ID = {color: index for index, color in enumerate(COLORS)}
N_FACTS = len(BASE_KINDS) * (1 + len(COLORS)) + len(COLORS)

# Words of the usual prompt templates, so that none of them is news to the text tower.
MEDIA = "photo picture image drawing painting sketch rendering snapshot".split()
MANNERS = (
    "bad|good|small|large|big|bright|dark|blurry|cropped|close-up|low resolution|"
    "pixelated|clean|black and white|simple|cool|nice|weird|jpeg corrupted|centred"
).split("|")
PLACES = ("in the scene", "in the picture", "here", "in the centre", "in a video game")
TAILS = (", a type of thing", ", a type of object", ", a type of shape", ", a toy")


def render_set(n_objects, n_scenes, seed):
    """Render base kinds; return images, facts and patch coverage.

    A fact is one bit an image: "has kind k", "kind k is of colour c", "the ground is
    of colour c". A caption states some facts of its image, and fits every image in
    which they all hold.
    """
    singles = make_object_images(
        -(-n_objects // len(BASE_KINDS)), kinds=BASE_KINDS, random_state=seed
    )
    scenes = make_scenes(n_scenes, min_objects=2, random_state=seed + 1)
    objects = [[label] for label in singles.labels.tolist()] + scenes.objects
    colors = [[color] for color in singles.colors.tolist()] + scenes.colors
    grounds = [*singles.backgrounds.tolist(), *scenes.backgrounds.tolist()]
    facts = np.zeros((len(objects), N_FACTS), dtype=np.float32)
    for row, kinds, hues, ground in zip(facts, objects, colors, grounds, strict=True):
        row[state_facts(kinds, hues, ground)] = 1
    masks = [np.where(singles.masks, 0, -1).astype(np.int8), scenes.masks]
    return {
        "images": np.concatenate([singles.images, scenes.images]),
        "coverage": np.concatenate([patch_coverage(mask) for mask in masks]),
        "facts": facts,
        "objects": objects,
        "colors": colors,
        "grounds": grounds,
    }


def state_facts(kinds, colors=None, ground=None):
    """Return the positions of the facts that a caption with these words states."""
    facts = [KIND_ID[kind] for kind in kinds]
    if colors is not None:
        for kind, color in zip(kinds, colors, strict=True):
            pair = KIND_ID[kind] * len(COLORS) + _COLOR_ID[color]
            facts.append(len(BASE_KINDS) + pair)
    if ground is not None:
        facts.append(len(BASE_KINDS) * (1 + len(COLORS)) + _COLOR_ID[ground])
    return facts


def patch_coverage(masks):
    """Return the covered share of each patch, float16 (n, MAX_OBJECTS, patches)."""
    blocks = masks.reshape(len(masks), GRID, PATCH, GRID, PATCH)
    shares = [(blocks == index).mean(axis=(2, 4)) for index in range(MAX_OBJECTS)]
    shape = len(masks), MAX_OBJECTS, GRID * GRID
    return np.stack(shares, axis=1).reshape(shape).astype(np.float16)


def write_caption(rng, kinds, colors, ground):
    """Caption some or all objects of an image; return the text and its facts."""
    order = rng.permutation(len(kinds))
    if rng.random() < 0.4:
        order = order[: rng.integers(1, len(kinds) + 1)]
    kinds = [kinds[index] for index in order]
    colors = [colors[index] for index in order] if rng.random() < 0.25 else None
    ground = ground if rng.random() < 0.15 else None
    names = kinds
    if colors is not None:
        names = [" ".join(pair) for pair in zip(colors, kinds, strict=True)]
    phrases = [add_article(rng, name) for name in names]
    text = phrases[-1]
    if len(phrases) > 1:
        text = f"{', '.join(phrases[:-1])} and {text}"
    if ground is not None:
        text += f" on {add_article(rng, ground, 0)} background"
    return apply_template(rng, text), state_facts(kinds, colors, ground)


def add_article(rng, name, other=0.2):
    """Mostly "a" or "an", else "the", "one", "my" or nothing."""
    if rng.random() < other:
        return f"{rng.choice(['the', 'one', 'my', ''])} {name}".strip()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def apply_template(rng, text):
    """Put a phrase into a random template of the usual kinds."""
    draw = rng.random(4)
    if draw[0] < 0.7:
        manner = f"{rng.choice(MANNERS)} " if draw[1] < 0.4 else ""
        medium = add_article(rng, manner + rng.choice(MEDIA), 0.1)
        text = f"{medium} of {text}"
    elif draw[0] < 0.8:
        text = f"{rng.choice(['this is', 'there is', 'itap of'])} {text}"
    if draw[2] < 0.1:
        text += rng.choice(TAILS)
    elif draw[2] < 0.2:
        text += f" {rng.choice(PLACES)}"
    return text + "." if draw[3] < 0.7 else text
