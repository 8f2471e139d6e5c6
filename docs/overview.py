"""Draw docs/images/overview.png: what the library does, in one picture.

Beside it comes overview-narrow.png, the same panels two by two, for telephones.

Run it as ``python docs/overview.py``; nothing is downloaded.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from skfewshot import CLIPFeaturizer, CMMClassifier, ZeroShotClassifier
from skfewshot.datasets import BASE_KINDS, make_object_images
from skfewshot.model_selection import shot_curve

OUT = Path(__file__).parent / "images"
CLASSES = ["checked moon", "plain heart", "spotted ball", "striped ring"]
LOOK = {"clutter": 0.6, "noise": 0.04}
#: Blue, orange, green and purple of Okabe and Ito.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
BLUE = COLORS[0]
INK, PALE = "#24292f", "#8c959f"
SMALL = {"fontsize": 8, "color": "#57606a"}
SHOTS = 1, 2, 4, 8, 16


@dataclass
class Layout:
    """A picture: its file, and where panels and their titles are, in inches."""

    name: str
    size: tuple[float, float]
    #: Title, its upper left corner, and left, bottom, width and height of the axes.
    panels: list[tuple[str, tuple, tuple]]
    #: Where the curves' legend is, as matplotlib takes it.
    legend: dict

    def share(self, inches):
        """Return lengths, x and y in turn, as shares of the figure."""
        return tuple(length / self.size[k % 2] for k, length in enumerate(inches))


WIDE = Layout(
    "overview.png",
    (11, 4.4),
    [
        (
            "Five images a class,\nand the names",
            (0.13, 4.2),
            (0.13, 0.09, 2.48, 3.23),
        ),
        (
            "CLIP embeds both, CMM turns\nimages to the names",
            (2.99, 4.2),
            (2.99, 0.37, 2.42, 2.95),
        ),
        (
            "New images get a name\nand a probability",
            (5.92, 4.2),
            (5.92, 0.09, 2.31, 3.23),
        ),
        (
            "Names and images\nhelp each other",
            (8.47, 4.2),
            (8.86, 0.59, 2.03, 2.73),
        ),
    ],
    {"loc": "lower right"},
)
# On a telephone of 420 pixels the width is some 390, and a point a pixel at least.
NARROW = Layout(
    "overview-narrow.png",
    (4.9, 8.35),
    [
        (
            "Five images a class,\nand the names",
            (0.07, 8.2),
            (0.07, 4.45, 2.28, 2.85),
        ),
        (
            "CLIP embeds both,\nCMM turns images\nto the names",
            (2.68, 8.2),
            (2.68, 4.7, 2.15, 2.6),
        ),
        (
            "New images get a\nname and a probability",
            (0.07, 4.1),
            (0.2, 0.1, 2.1, 3.4),
        ),
        (
            "Names and images\nhelp each other",
            (2.68, 4.1),
            (3.07, 1.28, 1.75, 2.02),
        ),
    ],
    {"loc": "upper center", "bbox_to_anchor": (0.4, -0.2)},
)


def main():
    """Draw the four panels and save them."""
    plt.rcParams.update({"font.size": 9, "text.color": INK, "axes.edgecolor": PALE})
    plt.rcParams["figure.dpi"] = 164  # 1804 pixels: twice the width in a README.
    clip = CLIPFeaturizer("tiny")
    look = {"kinds": CLASSES, **LOOK}
    support = make_object_images(5, shuffle=False, random_state=3, **look)
    query = make_object_images(40, random_state=4, **look)
    X, X_query = clip.fit_transform(support.images), clip.transform(query.images)
    model = CMMClassifier().fit(X, support.labels)

    curves = measure_curves(clip)

    for layout in (WIDE, NARROW):
        figure = plt.figure(figsize=layout.size, facecolor="white")
        panels = []
        for number, (title, corner, place) in enumerate(layout.panels, 1):
            panels.append(figure.add_axes(layout.share(place)))
            draw_title(figure, layout, number, title, corner)
        draw_support(panels[0], support)
        draw_map(panels[1], model, X_query, query.labels)
        draw_predictions(panels[2], model, X_query, query)
        draw_curves(panels[3], curves, layout.legend)
        note = "Rendered images, small model of the package"
        figure.text(0.99, 0.012, note, ha="right", va="bottom", **SMALL)
        save(figure, panels[1].get_position(), OUT / layout.name)


def draw_title(figure, layout, number, title, corner):
    """Write the number and the title of a panel, from its upper left corner on."""
    x, y = corner
    style = {"va": "top", "fontweight": "bold"}
    figure.text(*layout.share((x, y + 0.03)), number, fontsize=23, color=BLUE, **style)
    figure.text(*layout.share((x + 0.275, y)), title, fontsize=10.5, **style)


def save(figure, dots, path):
    """Save as a PNG of 256 colours, which is a third of the size."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]
    # The dots are few pixels: shown ten times, they keep their colours too.
    columns = slice(*(int(x * pixels.shape[1]) for x in (dots.x0, dots.x1)))
    dots = pixels[:, columns]
    palette = Image.fromarray(np.concatenate([pixels, *10 * [dots]], axis=1))
    palette = palette.quantize(256)
    image = Image.fromarray(pixels)
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    colors = np.array(image.getpalette()).reshape(-1, 3)
    colors[image.getpixel((0, 0))] = 255  # The background; the palette averages it.
    image.putpalette(colors.ravel().tolist())
    image.save(path, optimize=True)


def draw_support(ax, support):
    """Show the images of each class in a column under its name."""
    images = support.images.reshape(len(CLASSES), 5, *support.images.shape[1:])
    draw_grid(ax, images.swapaxes(0, 1))
    for column, (name, color) in enumerate(zip(CLASSES, COLORS, strict=True)):
        text = name.replace(" ", "\n")
        style = {"ha": "center", "color": color, "fontweight": "bold"}
        ax.text(column + 0.46, -0.07, text, **style)


def draw_grid(ax, images, width=1.0, height=1.0):
    """Show images of shape (rows, columns, size, size, 3) in cells."""
    for row, of_row in enumerate(images):
        for column, image in enumerate(of_row):
            left, top = column * width, row * height
            ax.imshow(image, extent=(left, left + 0.92, top + 0.92, top))
    n_rows, n_columns = images.shape[:2]
    ax.set(xlim=(0, n_columns * width - 0.08), ylim=(n_rows * height - 0.08, 0))
    ax.set(aspect="equal", anchor="NW")
    ax.axis("off")


def draw_map(ax, model, X, labels):
    """Show images and names in one plane, before and after the mapping."""
    texts = model.text_features_
    # Images are centred by the map; so are the texts that they are compared with.
    centred = texts - texts.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    images, mapped = np.asarray(X), model.transform(X)
    plane = gap_plane(np.concatenate([images, mapped]), texts)
    halves = (
        ("before", images, texts, 0.53),
        ("after", mapped, centred, 0.0),
    )
    for when, points, stars, bottom in halves:
        half = ax.inset_axes((0, bottom, 1, 0.47))
        points, stars = points @ plane, stars @ plane
        for name, star, color in zip(CLASSES, stars, COLORS, strict=True):
            half.scatter(*points[labels == name].T, s=7, color=color, alpha=0.5, lw=0)
            half.scatter(
                *star,
                s=120,
                marker="*",
                color=color,
                edgecolor="black",
                linewidth=0.8,
                zorder=3,
            )
        half.set(xticks=[], yticks=[])
        half.margins(0.09)
        half.text(0.02, 0.96, when, transform=half.transAxes, va="top", color=INK)
    half.scatter([], [], s=14, color=PALE, label="image")
    half.scatter([], [], s=90, marker="*", color=PALE, edgecolor="black", label="name")
    half.legend(
        loc="upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(0.5, 0.02),
        handletextpad=0.2,
    )
    ax.axis("off")


def gap_plane(images, texts):
    """Return the direction of the gap, and the one that spreads the classes most."""
    gap = images[: len(images) // 2].mean(axis=0) - texts.mean(axis=0)
    gap /= np.linalg.norm(gap)
    centred = images - images.mean(axis=0)
    centred -= np.outer(centred @ gap, gap)
    spread = np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.stack([spread, gap], axis=1)


def draw_predictions(ax, model, X, query):
    """Show the first new images, and what they are taken for."""
    shown = slice(6)
    images = query.images[shown]
    draw_grid(ax, images.reshape(3, 2, *images.shape[1:]), width=1.3, height=1.42)
    probabilities = model.predict_proba(X[shown])
    for place, (truth, p) in enumerate(
        zip(query.labels[shown], probabilities, strict=True)
    ):
        guess = model.classes_[p.argmax()]
        is_right = guess == truth
        ax.text(
            place % 2 * 1.3 + 0.46,
            place // 2 * 1.42 + 0.96,
            f"{guess}\n{p.max():.0%}{'' if is_right else ' (wrong)'}",
            ha="center",
            va="top",
            fontsize=9,
            color=COLORS[CLASSES.index(guess)] if is_right else "black",
        )


def measure_curves(clip):
    """Return [(name, accuracies in %, colour, marker)], a row of them for each shot."""
    # Of one image a class, scikit-learn asks if this is not a regression.
    warnings.filterwarnings("ignore", message="The number of unique classes")
    images, names = make_object_images(
        50, kinds=BASE_KINDS, clutter=1.0, noise=0.15, return_X_y=True, random_state=0
    )
    X = clip.transform(images)
    models = (
        ("both: CMM", CMMClassifier(), COLORS[0], "o"),
        (
            "images: linear probe",
            LogisticRegression(C=10, max_iter=1000),
            COLORS[1],
            "s",
        ),
        ("names: zero-shot", ZeroShotClassifier(), COLORS[2], "^"),
    )
    curves = []
    for name, model, color, marker in models:
        result = shot_curve(
            model,
            X,
            names,
            shots=SHOTS,
            cv=StratifiedShuffleSplit(n_splits=1, test_size=0.5, random_state=0),
            n_repeats=5,
            random_state=0,
        )
        curves.append((name, 100 * result.test_scores, color, marker))
    return curves


def draw_curves(ax, curves, legend):
    """Draw accuracy by the number of images, of images, of names and of both."""
    for name, scores, color, marker in curves:
        mean, spread = scores.mean(axis=1), scores.std(axis=1)
        ax.fill_between(
            SHOTS, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0
        )
        ax.plot(SHOTS, mean, marker=marker, color=color, markersize=5, label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(SHOTS, SHOTS)
    ax.set_xlabel("images a class (28 classes)", labelpad=2)
    ax.set_title("accuracy on new images", fontsize=9, loc="left", x=-0.14)
    ax.yaxis.set_major_formatter("{x:.0f} %")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=9, **legend)


if __name__ == "__main__":
    main()
