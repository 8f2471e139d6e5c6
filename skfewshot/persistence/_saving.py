"""Fitted models to files and back, by skops, which runs no code of a file."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skfewshot._files import replacing
from skfewshot.clip._sources import HF_HUB, in_hub_cache, reach_hub
from skfewshot.persistence._card import is_card, model_card

#: Names of all types of this package that a saved estimator may hold, for
#: ``skops.io.load(file, trusted=TRUSTED_TYPES)``.
TRUSTED_TYPES = (
    "skfewshot.peers._clap.CLAPClassifier",
    "skfewshot.cmm._classifier.CMMClassifier",
    "skfewshot.peers._gaussian_discriminant.GaussianDiscriminantClassifier",
    "skfewshot.peers._lp_plus_plus.LPPlusPlusClassifier",
    "skfewshot.peers._proker.ProKeRClassifier",
    "skfewshot.peers._taskres.TaskResClassifier",
    "skfewshot.peers._tip_adapter.TipAdapterClassifier",
    "skfewshot.peers._zero_shot.ZeroShotClassifier",
    "skfewshot.clip._embedding.EmbeddingArray",
    "skfewshot.clip._embedding.EncoderIdentity",
    "skfewshot.clip._featurizer.CLIPFeaturizer",
    "skfewshot.inspection._rejecting.RejectingClassifier",
    "skfewshot.multilabel._classifier.MultiLabelPrototypeClassifier",
    "skfewshot.multilabel._prior.MultiLabelPrototypePrior",
)
# What a search of scikit-learn holds, and skops does not know: they keep settings.
_SPLITTERS = (
    *("KFold", "StratifiedKFold", "GroupKFold", "StratifiedGroupKFold", "LeaveOneOut"),
    *("RepeatedKFold", "RepeatedStratifiedKFold"),
    *("ShuffleSplit", "StratifiedShuffleSplit", "GroupShuffleSplit"),
)
_KNOWN_TYPES = (
    *TRUSTED_TYPES,
    *(f"sklearn.model_selection._split.{name}" for name in _SPLITTERS),
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.metrics._scorer._Scorer",
    "sklearn.metrics._classification.accuracy_score",
)
#: The files of a saved model.
MODEL, CARD = "model.skops", "README.md"
#: What a model alone ends in.
SUFFIX = ".skops"


def save(
    model: BaseEstimator,
    path: str | os.PathLike,
    *,
    trusted: Iterable[str] = (),
    weights_license: str | None = None,
) -> Path:
    """Save a fitted model: to a folder, with a card that describes it, or to one file.

    What was there before stays until the new files are whole: a process that is killed
    as it saves leaves the old model.

    Parameters
    ----------
    model : estimator
        A fitted classifier or :class:`~sklearn.pipeline.Pipeline`. The weights of a
        :class:`~skfewshot.CLIPFeaturizer` are not saved, only which they are.
    path : str or os.PathLike
        A folder, into which ``model.skops`` and the card ``README.md`` are written,
        and other files stay; or a path that ends in ``.skops``, for the model alone.
        Folders that are missing are made.
    trusted : iterable of str, default=()
        Types of others that the model holds and that :func:`load` will be told to
        trust, as ``"module.Name"``.
    weights_license : str, default=None
        The licence of the encoder's weights, for the card. None names that of the
        model ``"tiny"`` and of weights of OpenAI and LAION, and else says where to
        look.

    Returns
    -------
    pathlib.Path
        The folder, or the file.

    Raises
    ------
    TypeError
        If `model` is no estimator.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If it holds types that would not be loaded, such as functions; or if `path` is
        a file that does not end in ``.skops``, a folder that does, or one with a
        ``README.md`` that is no card.
    ImportError
        If skops is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import skfewshot
    >>> from skfewshot.datasets import make_object_images
    >>> images, names = make_object_images(
    ...     5, kinds=["striped star", "plain heart"], random_state=0, return_X_y=True
    ... )
    >>> X = skfewshot.CLIPFeaturizer("tiny").fit_transform(images)
    >>> model = skfewshot.CMMClassifier().fit(X, names)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = skfewshot.save(model, folder)
    ...     files = sorted(path.name for path in saved.iterdir())
    ...     loaded = skfewshot.load(folder)
    >>> files
    ['README.md', 'model.skops']
    >>> (loaded.predict_proba(X) == model.predict_proba(X)).all()
    np.True_
    """
    io = _skops_io()
    if not isinstance(model, BaseEstimator):
        raise TypeError(f"model must be a fitted estimator; got {model!r:.80}.")
    check_is_fitted(model)
    path, is_file = check_target(path)
    content = io.dumps(model)
    unknown = set(io.get_untrusted_types(data=content))
    unknown -= {*_KNOWN_TYPES, *_names(trusted)}
    if unknown:
        inner = "model.best_estimator_ alone is what predicts. "
        raise ValueError(
            f"model holds {sorted(unknown)[:10]}, which is not of this library, and "
            "would not be loaded unless it is trusted. "
            f"{inner if hasattr(model, 'best_estimator_') else ''}If you know it, name "
            "it in trusted=, here and in load; a lambda cannot be saved at all."
        )
    card = "" if is_file else model_card(model, path.absolute().name, weights_license)
    (path.parent if is_file else path).mkdir(parents=True, exist_ok=True)
    if is_file:
        with replacing(path) as partial:
            partial.write_bytes(content)
        return path
    # The card last in, first out: at no time does the new card describe the old model.
    with replacing(path / CARD) as text, replacing(path / MODEL) as partial:
        text.write_text(card, encoding="utf-8")
        partial.write_bytes(content)
    return path


def check_target(path: str | os.PathLike) -> tuple[Path, bool]:
    """Return where a model is saved, and whether that is a file; see :func:`save`."""
    path = Path(path).expanduser()
    is_file = path.suffix == SUFFIX
    if is_file and path.is_dir():
        raise ValueError(
            f"path={str(path)!r} is a folder; wanted is a file, or a folder that does "
            f"not end in {SUFFIX!r}."
        )
    if not is_file and path.exists() and not path.is_dir():
        raise ValueError(
            f"path={str(path)!r} is a file; wanted is a folder, or a file that ends in "
            f"{SUFFIX!r}."
        )
    card = path / CARD
    if not is_file and card.is_file() and not is_card(card):
        raise ValueError(
            f"path={str(path)!r} has a {CARD} that is no card of a model, and would be "
            f"lost; wanted is another folder, or a file that ends in {SUFFIX!r}."
        )
    return path, is_file


def load(path: str | os.PathLike, *, trusted: Iterable[str] = ()) -> Any:
    """Load what :func:`save` saved. No code of the file is run.

    Parameters
    ----------
    path : str or os.PathLike
        The folder, its ``model.skops``, or ``"hf-hub:ORG/REPO"``, a model on the
        Hugging Face hub, which is downloaded if it is not on this machine.
    trusted : iterable of str, default=()
        Types that the file may hold beside those of this library, of scikit-learn and
        of NumPy, as ``"module.Name"``. Name only what you know: what they do as they
        are made is done.

    Returns
    -------
    estimator

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ConnectionError
        If a model of the hub cannot be downloaded.
    ValueError
        If the file is no saved model or damaged, or holds types that are not trusted.
    ImportError
        If skops is not installed.

    Warns
    -----
    VersionWarning
        If another version of this library saved it.
    """
    io = _skops_io()
    file = model_file(path)
    known = {*_KNOWN_TYPES, *_names(trusted)}
    with _damage_named(file):
        unknown = set(io.get_untrusted_types(file=file)) - known
    if unknown:
        raise ValueError(
            f"{str(file)!r} holds types that are not trusted, {sorted(unknown)[:10]}. "
            "If you know them, and who made the file, name them in trusted=."
        )
    with _damage_named(file):
        model = io.load(file, trusted=sorted(known))
        check_is_fitted(model)
    return model


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Say of which file it is that skops cannot read it, whatever it trips over."""
    try:
        yield
    except (ImportError, OSError, Warning):  # a warning that is an error is no damage
        raise
    except Exception as error:
        raise ValueError(
            f"{str(file)!r} is no model that skops saved, or damaged: {error!r:.200}"
        ) from error


def model_file(path: str | os.PathLike) -> Path:
    """Return the file of a saved model; see :func:`load`."""
    if isinstance(path, str) and path.startswith(HF_HUB):
        file = _downloaded(path.removeprefix(HF_HUB))
    else:
        file = Path(path).expanduser()
        file = file / MODEL if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no model {str(file)!r}; wanted is a folder that skfewshot.save "
            "wrote, or a file that ends in '.skops'."
        )
    return file


def _downloaded(repo: str) -> Path:
    """Return the file of a model of the hub, from the cache if it is not reached."""
    from huggingface_hub import hf_hub_download

    try:
        reach_hub()
    except Exception as error:
        cached = in_hub_cache(repo, [MODEL])
        if cached is None:
            raise ConnectionError(f"The hub, for {repo!r}: {error}") from error
        return Path(cached)
    try:
        return Path(hf_hub_download(repo, MODEL))
    except Exception as error:  # of whatever library the client uses
        raise ConnectionError(
            f"{MODEL} of {repo!r} could not be downloaded: {error}"
        ) from error


def _names(trusted: Iterable[str]) -> list[str]:
    names = [trusted] if isinstance(trusted, str) else trusted
    names = list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"trusted must hold the names of types, as 'module.Name'; got {names!r}."
        )
    return names


def _skops_io() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "Saving and loading need skops; install it with pip install skops."
        ) from error
    return skops.io
