"""A report on a fitted classifier: one page that says what to trust, and what to do."""

import html
import os
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from skfewshot._files import replacing
from skfewshot._sklearn import check_number
from skfewshot.clip._featurizer import takes_images
from skfewshot.inspection import _page as make
from skfewshot.inspection._findings import read_findings
from skfewshot.inspection._model import check_share, resolve
from skfewshot.inspection._sections import Sections, next_to_label, settings

_FRAME = (
    '<iframe title="report" srcdoc="{}" style="width:100%;height:40rem;border:0" '
    'sandbox=""></iframe>'
)


class Report:
    """A page on a fitted classifier, in one HTML file that needs nothing else.

    It says how many images each class has, how well images are classified that were
    left out, which classes are taken for which, which labels are in doubt, which images
    show the same, which classes are too alike and which names do not help, whether
    probabilities and sets hold, what to label next, and with which settings all this
    was made. It is drawn for a phone as for a screen, light and dark.

    Parameters
    ----------
    model : estimator
        A fitted classifier with one label an image, or a
        :class:`~sklearn.pipeline.Pipeline` that ends in one.
    X : array-like of shape (n_samples, ...)
        Images with labels, as `model` takes them: images for a pipeline with a
        featurizer, embeddings for a classifier. If they are those that it was fitted
        on, with ``store_left_out=True``, each is judged by the classifier without it.
        Otherwise pass images that it has not seen: what it says of those that it has is
        too good to be true.
    y : array-like of shape (n_samples,)
        Their labels; None, NaN and the like are none.
    images : sequence of images, default=None
        The pictures of the rows of `X`, such as paths. None takes `X`, if `model`
        starts with a :class:`~skfewshot.CLIPFeaturizer`, and else shows none.
    X_pool : array-like of shape (n_pool, ...), default=None
        Images without labels, of which some are suggested to be labelled next.
    pool_images : sequence of images, default=None
        Their pictures, as `images`.
    coverage : float, default=0.9
        Of the prediction sets: the share, above 0 and below 1, that is to hold the
        right class.
    n_shown : int, default=12
        Pictures in each part, at most.
    title : str, default=None
        None is "What the classifier learned".

    Attributes
    ----------
    html : str
        The page.

    Raises
    ------
    TypeError, ValueError
        If `model` has no labels one an image, `y` does not fit `X` or holds labels that
        `model` does not know, or there are not as many pictures as rows.

    See Also
    --------
    predict_set, novelty_score, suggest : What it draws on.

    Notes
    -----
    Pictures are small copies within the page: who gets the page can see them. Names are
    text, whatever they hold, and the page runs no script and fetches nothing.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from skfewshot import CLIPFeaturizer, CMMClassifier
    >>> from skfewshot.datasets import make_object_images
    >>> from skfewshot.inspection import Report
    >>> images, names = make_object_images(
    ...     5, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    ... )
    >>> cmm = CMMClassifier(store_left_out=True)
    >>> model = make_pipeline(CLIPFeaturizer("tiny"), cmm).fit(images, names)
    >>> report = Report(model, images, names)
    >>> report.save("report.html")  # doctest: +SKIP
    >>> "plain heart" in report.html
    True
    """

    def __init__(
        self,
        model: Any,
        X: Any,
        y: ArrayLike,
        *,
        images: Any = None,
        X_pool: Any = None,
        pool_images: Any = None,
        coverage: float = 0.9,
        n_shown: int = 12,
        title: str | None = None,
    ) -> None:
        coverage = check_share("coverage", coverage)
        n_shown = check_number("n_shown", n_shown, 1)
        found = read_findings(model, X, y)
        if takes_images(model):
            images = X if images is None else images
            pool_images = X_pool if pool_images is None else pool_images
        n_rows = len(y)  # type: ignore[arg-type]
        drawing = Sections(found, make.Pictures(images, n_rows, "images"), n_shown)
        title = "What the classifier learned" if title is None else title
        parts = [
            drawing.head(title),
            drawing.classes(),
            drawing.mistakes(),
            drawing.doubtful(),
            drawing.near_copies(),
            drawing.alike(),
            drawing.names(),
            drawing.calibration(),
            drawing.sets(coverage),
        ]
        if X_pool is not None:
            features, unread = resolve(model, X_pool).features()
            shown = make.Pictures(pool_images, len(features), "pool_images")
            parts.append(
                next_to_label(found.classifier, features, unread, shown, n_shown)
            )
        parts.append(settings(model, found))
        self.html: str = make.page(title, parts)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the page to a file, which is whole or not there.

        Parameters
        ----------
        path : str or os.PathLike

        Returns
        -------
        pathlib.Path
        """
        path = Path(path).expanduser()
        with replacing(path) as partial:
            partial.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # A page of its own, so that it and the notebook leave each other's look alone.
        return _FRAME.format(html.escape(self.html, quote=True))
