"""The parts of a report: what each says of images with labels, and how."""

import platform
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot import __version__
from skfewshot._base import FewShotClassifier
from skfewshot._sklearn import show_estimator
from skfewshot.inspection import _page as make
from skfewshot.inspection._doubt import ranked_issues
from skfewshot.inspection._findings import (
    ALIKE,
    Findings,
    calibration_bins,
    classes_alike,
    confusions,
    copies,
    untrusted_names,
)
from skfewshot.inspection._model import proba_of
from skfewshot.inspection._sets import least_probabilities
from skfewshot.inspection._suggest import best_to_label
from skfewshot.metrics import expected_calibration_error

# Classes in the table before the rest is folded, and pairs of classes.
_SHOWN_CLASSES, _SHOWN_PAIRS = 30, 12
_PACKAGES = ("scikit-learn", "numpy", "scipy", "torch", "open_clip_torch")


class Sections:
    """The parts of the page that show images with labels."""

    def __init__(self, found: Findings, pictures: make.Pictures, n_shown: int) -> None:
        self.found, self.pictures, self.n_shown = found, pictures, n_shown
        self.class_names = [make.name(c) for c in found.classifier.classes_]
        self.how = "when left out" if found.is_left_out else "of the images passed"

    def _figures(self, places: NDArray | Sequence[int], caption: Any) -> str:
        figures = [
            (int(self.found.rows[p]), caption(int(p))) for p in places[: self.n_shown]
        ]
        return self.pictures.grid(figures)

    def _seen_as(self, place: int) -> str:
        """Say what an image is labelled, and taken for."""
        found = self.found
        label, other = found.codes[place], found.predicted[place]
        if label == other:
            text = make.percent(found.own[place])
            return f"<b>{self.class_names[label]}</b><br>{text}"
        share = make.percent(found.proba[place, other])
        return (
            f"<b>{self.class_names[label]}</b><br>"
            f'<span class="bad">{self.class_names[other]}?</span> {share}'
        )

    def head(self, title: str) -> str:
        """Return the title, and the numbers that matter most."""
        found = self.found
        has = found.counts[found.counts > 0]
        shots = " to ".join(dict.fromkeys(map(str, (has.min(), has.max()))))
        loss = -np.log(np.maximum(found.own, np.finfo(float).tiny)).mean()
        values = [
            (f"{len(self.class_names)}", "classes"),
            (f"{len(found.rows)}", f"images with labels, {shots} a class"),
            (make.percent(found.accuracy), f"right, {self.how}"),
            (f"{loss:.2f}", f"mean log loss, {self.how}"),
        ]
        others = [
            (found.n_unlabelled, "without a label"),
            (found.n_unread, "that could not be read"),
        ]
        beside = ", ".join(f"{count} {what}" for count, what in others if count)
        how = (
            "Each image was judged by the classifier without it."
            if found.is_left_out
            else "<b>These images were not left out one by one.</b> If the classifier "
            "learned from them, all of this is too good to be true: fit it with "
            "store_left_out=True, or pass images that it has not seen."
        )
        kind = make.escaped(type(found.classifier).__name__)
        encoder = getattr(found.classifier, "encoder_", None)
        by = "" if encoder is None else f" on {make.name(encoder.model_name)}"
        also = f" Beside these images there are {beside}." if beside else ""
        return (
            f'<header><h1>{make.escaped(title)}</h1><p class="soft">{kind}{by}. '
            f"{how}{also}</p>{make.tiles(values)}</header>"
        )

    def classes(self) -> str:
        """Return shots and recall a class, the worst first."""
        found = self.found
        counts, recalls = found.counts, found.recalls()
        order = np.lexsort((counts, np.nan_to_num(recalls, nan=2.0)))
        most = counts.max()
        rows = [
            (
                self.class_names[code],
                make.bar(counts[code] / most, str(counts[code])),
                make.bar(recalls[code], make.percent(recalls[code]), "green"),
            )
            for code in order
        ]
        head = ("class", "images", f"right, {self.how}")
        content = make.table(head, rows[:_SHOWN_CLASSES])
        if rest := rows[_SHOWN_CLASSES:]:
            content += make.folded(f"{len(rest)} more", make.table(head, rest))
        uneven = counts[counts > 0].max() > 4 * counts[counts > 0].min()
        intro = "Those with the most mistakes first."
        if uneven:
            intro += " Some have few images: more of them would teach most."
        return make.section("Images and accuracy of each class", intro, content)

    def mistakes(self) -> str:
        """Return which classes are taken for which, with their images."""
        pairs = confusions(self.found)
        title = "What is taken for what"
        if not pairs:
            return make.section(title, f"Nothing: all images, {self.how}, are right.")
        rows = [
            (
                f"{self.class_names[pair.of]} → {self.class_names[pair.taken_for]}",
                make.bar(pair.share, f"{len(pair.images)}", "red"),
            )
            for pair in pairs[:_SHOWN_PAIRS]
        ]
        intro = "The most frequent mistakes; the bar is the share of the class."
        content = make.table(("label → taken for", "images"), rows)
        places = np.concatenate([pair.images for pair in pairs])
        return make.section(
            title, intro, content + self._figures(places, self._seen_as)
        )

    def doubtful(self) -> str:
        """Return images whose label the others contradict."""
        found = self.found
        if not found.is_left_out:
            return ""
        every = np.arange(len(found.codes))
        classes = found.classifier.classes_
        issues = ranked_issues(every, found.proba, found.codes, classes)
        places = issues.rows[issues.is_issue]
        title = "Doubtful labels"
        if not len(places):
            return make.section(title, "No label is likely to be wrong.")
        intro = (
            f"{len(places)} of {len(every)} labels may be wrong, or the image shows "
            "something else as well; the most doubtful first (label_issues)."
        )
        return make.section(title, intro, self._figures(places, self._seen_as))

    def near_copies(self) -> str:
        """Return images of a class that show nearly the same."""
        groups = copies(self.found)
        title = "Near copies"
        if not groups:
            return make.section(title, "No two images of a class show nearly the same.")
        shown = "".join(
            self._figures(group, self._seen_as) for group in groups[: self.n_shown]
        )
        n = sum(map(len, groups))
        of = "one photograph" if len(groups) == 1 else f"{len(groups)} photographs"
        intro = f"{n} images of {of}, or nearly. Such copies teach about what one does."
        return make.section(title, intro, shown)

    def alike(self) -> str:
        """Return classes that are hard to tell apart."""
        pairs = classes_alike(self.found)
        title = "Classes too alike"
        if not pairs:
            return make.section(
                title,
                f"No class gets {make.percent(ALIKE)} of the probability of another.",
            )
        rows = [
            (
                f"{self.class_names[pair.of]} and {self.class_names[pair.taken_for]}",
                make.bar(pair.share, make.percent(pair.share), "red"),
            )
            for pair in pairs[: self.n_shown]
        ]
        intro = (
            "What images of one give to the other, on average. Images that show the "
            "difference help, or names that say it, or one class of the two."
        )
        head = ("classes", "probability")
        return make.section(title, intro, make.table(head, rows))

    def names(self) -> str:
        """Return classes whose name does not help."""
        title = "Names that do not help"
        if self.found.classifier.prototype_source_ == "image":
            return make.section(
                title, "No names were used: the classifier learned from images alone."
            )
        if not hasattr(self.found.classifier, "text_trust_"):
            return ""
        names = untrusted_names(self.found)
        if not names:
            return make.section(title, "The images bear out the name of every class.")
        rows = [
            (self.class_names[code], make.bar(trust, make.percent(trust), "red"))
            for code, trust in names[: 2 * self.n_shown]
        ]
        intro = (
            "What CLIP makes of these names does not fit their images, so that they "
            "count for little. Another name or a description may: class_names."
        )
        return make.section(title, intro, make.table(("class", "trust"), rows))

    def calibration(self) -> str:
        """Return whether probabilities mean what they say."""
        found = self.found
        error = expected_calibration_error(
            found.codes, found.proba, labels=np.arange(found.proba.shape[1])
        )
        bins = calibration_bins(found)
        rows = [
            (f"{said:.2f}", make.percent(right), f"{n_images}")
            for said, right, n_images in bins
        ]
        head = ("said", "right", "images")
        content = (
            f'<div class="row">{make.reliability(bins)}'
            f'<div style="flex:1;min-width:12rem">{make.table(head, rows)}</div></div>'
        )
        intro = (
            "Images by how sure the classifier is: on the line, it is right as often "
            f"as it says. Expected calibration error {error:.3f}."
        )
        return make.section("Do probabilities hold?", intro, content)

    def sets(self, coverage: float) -> str:
        """Return how large prediction sets are."""
        found = self.found
        if not found.is_left_out:
            return ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the page says it
            least = least_probabilities(found.classifier, coverage)
        sizes = (found.proba >= least).sum(axis=1)
        values, counts = np.unique(sizes, return_counts=True)
        rows = [
            (
                "1 class" if size == 1 else f"{size} classes",
                make.bar(count / len(sizes), make.percent(count / len(sizes))),
            )
            for size, count in zip(values[:12], counts[:12], strict=True)
        ]
        intro = (
            f"To hold the right class {make.percent(coverage)} of the time a set needs "
            f"{sizes.mean():.1f} classes on average: those of a probability of "
            f"{least[0]:.2g} and more (predict_set)."
        )
        if not least.any():
            intro = (
                f"There are too few images for sets that hold the right class "
                f"{make.percent(coverage)} of the time."
            )
            rows = []
        content = make.table(("size of the set", "images"), rows) if rows else ""
        return make.section("Prediction sets", intro, content)


def next_to_label(
    classifier: FewShotClassifier,
    features: NDArray,
    unread: NDArray[np.bool_],
    pictures: make.Pictures,
    n_shown: int,
) -> str:
    """Return which images to label next, and what they are taken for."""
    title, rows = "What to label next", np.flatnonzero(~unread)
    if not len(rows):
        return make.section(title, "None of the images without labels could be read.")
    chosen = rows[best_to_label(classifier, features[rows], min(n_shown, len(rows)))]
    names = [make.name(c) for c in classifier.classes_]
    figures = [
        (row, f"{names[p.argmax()]}? {make.percent(p.max())}")
        for row, p in zip(chosen, proba_of(classifier, features[chosen]), strict=True)
    ]
    intro = (
        f"Of {len(rows)} images without labels these would teach most, the first most "
        "of all: the classifier doubts them, and many others are like them."
    )
    return make.section(title, intro, pictures.grid(figures))


def settings(model: Any, found: Findings) -> str:
    """Return what it takes to get the same again."""
    lines = [show_estimator(model), ""]
    encoder = getattr(found.classifier, "encoder_", None)
    if encoder is not None:
        lines += [f"encoder: {encoder.model_name}, {encoder.pretrained}"]
        lines += [f"fingerprint: {encoder.fingerprint}", ""]
    lines += [f"python {platform.python_version()}", f"skfewshot {__version__}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    content = f"<pre>{make.escaped(chr(10).join(lines))}</pre>"
    return make.section("Settings", "With these, the same comes out again.", content)
