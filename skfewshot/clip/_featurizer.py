"""The transformer from images to embeddings on a frozen CLIP model."""

import os
from collections.abc import Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags

from skfewshot._sklearn import (
    Estimator,
    Interval,
    StrOptions,
    _fit_context,
    _get_output_config,
    has_callbacks,
    last_step_of_caller,
)
from skfewshot._torch import import_torch, resolve_device
from skfewshot.clip._cache import DEFAULT_SIZE, SMALLEST_SIZE, EmbeddingCache
from skfewshot.clip._dense import DENSE_MODES
from skfewshot.clip._embedding import EmbeddingArray, EncoderIdentity
from skfewshot.clip._holders import as_images, line_for_targets
from skfewshot.clip._models import CLIPModel, load_clip
from skfewshot.clip._output import check_out
from skfewshot.clip._passes import (
    default_num_workers,
    embed_images,
    length_of,
    plan_passes,
)
from skfewshot.clip._progress import is_watched, progress
from skfewshot.clip._prompts import check_names, check_templates, check_texts
from skfewshot.clip._sources import DEFAULT_PRETRAINED
from skfewshot.clip._texts import encode_classes, encode_texts

if TYPE_CHECKING:
    import torch

# The widths of embeddings, by name and weights, of models that were once loaded.
_widths: dict[tuple[str, str], int] = {}


class CLIPFeaturizer(
    ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, TransformerMixin, Estimator
):
    """Embed images, and class names, with a frozen CLIP model of open_clip.

    Images and texts land in one space, so that the cosine between an image and a class
    name says how well they fit. Nothing is trained: :meth:`transform`,
    :meth:`encode_text` and :meth:`encode_classes` work without :meth:`fit`, which only
    checks the parameters and notes the encoder. The weights are kept in a cache that
    all featurizers of the process share, never in the estimator, and with them the
    embeddings of the class names that were encoded last (64 MiB at most).

    Parameters
    ----------
    model_name : str, default="ViT-B-32"
        A built-in model of open_clip (``open_clip.list_models()``); ``"tiny"``, the
        small model that this package ships for demos, tests and teaching;
        ``"local-dir:PATH"``, a folder with `open_clip_config.json` and weights; or
        ``"hf-hub:ORG/REPO"``. The last three bring their weights along; leave
        `pretrained` at its default, or None.
    pretrained : str, os.PathLike or None, default="laion2b_s34b_b79k"
        The weights: one of open_clip's tags, which is downloaded when first used; a
        safetensors or PyTorch file (of which only tensors are loaded, no code); or
        ``"local-dir:PATH"``, whose architecture then replaces that of `model_name`.
        ``None`` is refused where it would mean random weights. A file gets the
        activation and preprocessing of the tag whose name is part of its own
        (``"ViT-B-32-openai.safetensors"``, or the path in the hub's cache), or else
        what all tags of `model_name` want; where they want different things, a warning
        says what was taken.
    output : {"embedding", "tokens"}, default="embedding"
        One embedding an image, or the global embedding followed by one for each patch.
    dense_mode : {"auto", "value", "self-self", "value-no-residual", \
            "self-self-no-residual", "plain"}, default="auto"
        How the last attention makes patch tokens, for ``output="tokens"``:
        ``"value"``, each token keeps to its own value; ``"self-self"``, it attends to
        tokens like itself (mean of query-query, key-key and value-value attention);
        ``"plain"``, the ordinary tokens, whose similarity to text can be inverted.
        ``"-no-residual"`` leaves out the last block's residual and MLP. ``"auto"`` is
        ``"value"`` for the embedded model and for ResNets, and else
        ``"self-self-no-residual"``.
    batch_size : int, default=64
        Images, or texts, that the model has in work at a time. Memory beyond the output
        does not grow with the number of images.
    device : str or None, default=None
        Where the model runs; ``None`` takes the first of CUDA, MPS and CPU there is.
    precision : {"auto", "fp32", "fp16", "bf16"}, default="auto"
        The number format of the weights. ``"auto"`` is fp16 on CUDA and fp32 elsewhere;
        fp16 needs CUDA, bf16 CUDA or the CPU. The output is float32 always.
    resize_mode : {"auto", "crop", "pad", "squash"}, default="auto"
        How an image comes to the square that the model sees: ``"crop"`` cuts off what
        is longer than wide (a picture twice as wide as high loses half), ``"pad"``
        shows all of it between black bars, ``"squash"`` shows all of it out of
        proportion. ``"auto"`` is what the model was trained with: ``"crop"`` for CLIP,
        ``"squash"`` for SigLIP. Embeddings by another mode are those of another
        encoder.
    num_workers : int or None, default=None
        Threads that decode and resize images while the model runs, which on a CPU runs
        in as many threads on parts of a batch; 0 does both in turn in the caller's
        thread. ``None`` is as many as torch computes with, which is one for each core,
        and fewer in the workers of joblib.
    prompt_templates : "default", str, callable or sequence of str or callable, \
            default="default"
        Texts with ``{}`` in the place of the class name, or functions from a name to a
        text, or to a list of texts, for :meth:`encode_classes`. ``"default"`` is
        `skfewshot.clip.DEFAULT_PROMPT_TEMPLATES`.
    on_error : {"raise", "nan"}, default="raise"
        What to do about an image that is missing or cannot be read: raise
        :class:`~skfewshot.clip.ImageReadError` with its index and path, or warn and
        give NaN. Files of more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, 89 million
        unless you set it, are not decoded: a small file may ask for all the memory
        there is.
    cache : str, os.PathLike or None, default=None
        A folder in which to keep every embedding, under a hash of the content of the
        image, the weights, the preprocessing, `output`, `dense_mode` and the precision.
        No image is then embedded twice: not in other folds of a search, nor in other
        processes or later runs. Class names are kept there too. A file that has changed
        is another image. Processes may share it at the same time, and may be killed at
        any time. One that may not be written to is read, with a warning. On a disk of
        this machine, not on a network file system.
    cache_size : int, default=10 * 2**30
        The bound on the cache in bytes, at least ``2**20``. A full cache loses what was
        embedded longest ago.
    progress : "auto" or bool, default="auto"
        Whether to show a progress bar on the standard error when embedding images takes
        longer than two seconds. ``"auto"`` shows it in a terminal or a notebook, and
        not in a pipe, a log, a thread, a worker or where callbacks report.

    Attributes
    ----------
    encoder_ : EncoderIdentity
        Which weights were loaded in :meth:`fit`. Others are refused from then on.
    embedding_dim_ : int
        d, the width of the embeddings.
    logit_scale_ : float
        The model's own inverse temperature s of ``softmax(s * cosine)``.
    device_ : torch.device
        Where the model runs, resolved when asked for: a pickle may change machines.

    See Also
    --------
    skfewshot.CMMClassifier : Learns from a few embeddings a class.
    skfewshot.clip.clear_model_cache : Frees the memory of the cached models.

    Notes
    -----
    Preprocessing is open_clip's own for the model. A tag that was trained with the
    QuickGELU activation gets it, also under the plain name, where open_clip only warns.

    ``benchmarks/dense_modes.py`` measures how well each `dense_mode` points at named
    objects. The embedded model is trained to be read by ``"value"``; the same model
    trained on whole images, as CLIP models are, does best by
    ``"self-self-no-residual"``. In CoCa and SigLIP, which pool by attention, each token
    then goes the value path of the pooling.

    A progress bar set by :meth:`set_callbacks`, on the featurizer or on its pipeline,
    moves with every batch of :meth:`fit_transform`. Scikit-learn's callbacks belong to
    fitting, so :meth:`transform` reports only to those set on the featurizer itself.

    Examples
    --------
    Classify images by the names of their classes alone:

    >>> from skfewshot.clip import CLIPFeaturizer
    >>> from skfewshot.datasets import make_object_images
    >>> names = ["plain ball", "striped star"]
    >>> data = make_object_images(8, kinds=names, random_state=0)
    >>> featurizer = CLIPFeaturizer("tiny")
    >>> X = featurizer.fit_transform(data.images)
    >>> T = featurizer.encode_classes(names)
    >>> X.shape, T.shape
    ((16, 128), (2, 128))
    >>> guesses = (X @ T.T).argmax(axis=1)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "model_name": [str],
        "pretrained": [str, os.PathLike, None],
        "output": [StrOptions({"embedding", "tokens"})],
        "dense_mode": [StrOptions({"auto", *DENSE_MODES})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
        "precision": [StrOptions({"auto", "fp32", "fp16", "bf16"})],
        "resize_mode": [StrOptions({"auto", "crop", "pad", "squash"})],
        "num_workers": [Interval(Integral, 0, None, closed="left"), None],
        "prompt_templates": [str, callable, "array-like"],
        "on_error": [StrOptions({"raise", "nan"})],
        "cache": [str, os.PathLike, None],
        "cache_size": [Interval(Integral, SMALLEST_SIZE, None, closed="left")],
        "progress": [StrOptions({"auto"}), "boolean"],
    }

    def __init__(
        self,
        model_name: str = "ViT-B-32",
        pretrained: str | os.PathLike | None = DEFAULT_PRETRAINED,
        *,
        output: str = "embedding",
        dense_mode: str = "auto",
        batch_size: int = 64,
        device: str | None = None,
        precision: str = "auto",
        resize_mode: str = "auto",
        num_workers: int | None = None,
        prompt_templates: Any = "default",
        on_error: str = "raise",
        cache: str | os.PathLike | None = None,
        cache_size: int = DEFAULT_SIZE,
        progress: bool | str = "auto",
    ) -> None:
        self.model_name = model_name
        self.pretrained = pretrained
        self.output = output
        self.dense_mode = dense_mode
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.resize_mode = resize_mode
        self.num_workers = num_workers
        self.prompt_templates = prompt_templates
        self.on_error = on_error
        self.cache = cache
        self.cache_size = cache_size
        self.progress = progress

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and X, load the model and note which one it is.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`. The images themselves are not read.
        y : array-like of length n or None, default=None
            Labels of the images, see :meth:`fit_transform`.

        Returns
        -------
        self : CLIPFeaturizer
        """
        import_torch()
        images = () if X is None and y is not None else as_images(X)
        _check_labels(y, None if X is None else length_of(images), X)
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._note_encoder()
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit, and embed the images once.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`.
            None, with labels as `y`, are no images: a pipeline of a featurizer and a
            :class:`~skfewshot.ZeroShotClassifier` is fitted on names alone.
        y : array-like of length n or None, default=None
            Labels of the images; nothing is learned from them. Another number of them
            than of images is refused, and in a pipeline that ends in a classifier of
            this package with one label an image, what that would refuse: labels that
            are missing or of one class only, its parameters, and names. What only its
            `fit` can see comes after the embedding: give `cache` not to lose that.

        Returns
        -------
        EmbeddingArray
            See :meth:`transform`.
        """
        import_torch()
        if X is None and y is not None and self.output == "embedding":
            _check_labels(y, None)
            clip = self._note_encoder()
            nothing = np.empty((0, clip.identity.embedding_dim), np.float32)
            return EmbeddingArray(nothing, self._identity(clip))
        images = as_images(X)
        _check_labels(y, length_of(images), X)
        n_batches = self._n_batches(images) if has_callbacks(self) else None
        context = self._init_callback_context(max_subtasks=n_batches)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        embeddings = self._embed(self._note_encoder(), images, context)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return embeddings

    def transform(self, X: Any, out: NDArray | None = None) -> Any:
        """Embed images.

        Parameters
        ----------
        X : sequence or iterable of images
            An image is a PIL image, a path, the content of an image file (bytes, a file
            that is open for reading bytes, a data URI, base64, or a dict with ``bytes``
            or ``path``) or a uint8 array (H, W, 3). They may stand in a list, tuple,
            1-D array, a pandas, polars or pyarrow column (of a table that with the name
            ``image``, or the only one), or a data set of torch or of Hugging Face, of
            whose rows the image is taken: the targets are ``dataset.targets``. A uint8
            array (n, H, W, 3) or a tensor, channels first or last, holds images too.
            Grey, palette, transparent (laid on white), CMYK, 16-bit and EXIF-rotated
            images come out right, and arrays may be grey, (H, W) or (H, W, 1), or have
            a fourth channel of opacity. Images opened by PIL and not read yet stay so.
            A generator is read once, a few batches ahead.
        out : ndarray of float32 or None, default=None
            Where to write the embeddings, such as a memory map that is larger than the
            memory of the machine: of the shape below, with more rows if need be where
            X is an iterable of unknown length.

        Returns
        -------
        EmbeddingArray of float32
            Of shape (n, d), with rows of length one; for ``output="tokens"`` of shape
            (n, 1 + K, d), where row 0 is the global embedding and the K patches follow
            in reading order, all of length one. On the memory of `out`, if given.

        Raises
        ------
        TypeError, ValueError
            If X does not hold images, or `out` has another type, dtype or shape.
        ImageReadError
            If an image cannot be read, under ``on_error="raise"``. A ValueError. So is
            a 16-bit or float image that uses less than a quarter of its range, as
            12-bit X-rays do, which would be all but black; the error has the line that
            stretches it.
        WeightsDownloadError
            If the weights had to be downloaded, and that failed. A ConnectionError.
        """
        self._validate_params()
        import_torch()
        images = as_images(X)
        if not has_callbacks(self):
            return self._embed(self.load(), images, out=out)
        return self._embed_with_callbacks(images, out)

    def encode_text(self, texts: Any) -> EmbeddingArray:
        """Embed texts as they are.

        Parameters
        ----------
        texts : sequence of str
            Longer ones than the model's context (77 tokens for CLIP) are cut off, with
            a warning.

        Returns
        -------
        EmbeddingArray of float32 of shape (n, d)
            Rows have length one.

        Examples
        --------
        >>> from skfewshot.clip import CLIPFeaturizer
        >>> CLIPFeaturizer("tiny").encode_text(["a red star", "a blue ring"]).shape
        (2, 128)
        """
        self._validate_params()
        texts = check_texts(texts)
        return encode_texts(self.load(), texts, self.batch_size)

    def encode_classes(
        self, names: Any, prompt_templates: Any = None
    ) -> EmbeddingArray:
        """Embed class names, each as the mean over the prompt templates.

        Parameters
        ----------
        names : sequence of str or of sequences of str, or dict with such values
            A str goes into the templates, its underscores as spaces. A sequence in its
            place holds descriptions of the class, whole sentences that are encoded as
            they are. The order of a dict is that of its keys.
        prompt_templates : str, callable, sequence or None, default=None
            As the parameter of the estimator, which ``None`` takes.

        Returns
        -------
        EmbeddingArray of float32 of shape (C, d)
            The mean of the normalised embeddings of a name's texts, normalised again.

        Raises
        ------
        TypeError, ValueError
            If a name is not a str, or a template lacks the place for the name.

        Warns
        -----
        UserWarning
            If prompts are longer than the model reads, or different names are the same
            to it: CLIP ignores case, spaces at the ends, and what it cuts off.
        """
        self._validate_params()
        if prompt_templates is None:
            prompt_templates = self.prompt_templates
        templates = check_templates(prompt_templates)
        names = check_names(names)
        cache = None if self.cache is None else (self.cache, int(self.cache_size))
        return encode_classes(self.load(), names, templates, self.batch_size, cache)

    def load(self) -> CLIPModel:
        """Load the model, or find it in the cache.

        Returns
        -------
        CLIPModel
            With `model` (open_clip's, shared: not to be changed), `preprocess`,
            `tokenizer`, `device` and `identity`.

        Raises
        ------
        ValueError
            If the featurizer was fitted with other weights than those that load now.
        """
        clip = load_clip(
            self.model_name,
            self.pretrained,
            device=resolve_device(self.device),
            precision=self.precision,
            resize_mode=self.resize_mode,
        )
        named = str(self.model_name), str(self.pretrained)
        _widths[named] = clip.identity.embedding_dim
        fitted = getattr(self, "encoder_", None)
        if fitted is not None and fitted != clip.identity:
            raise ValueError(
                f"This featurizer was fitted with {fitted}, but now {clip.identity} "
                "loads: the parameters or the weights have changed. Fit it again."
            )
        return clip

    @property
    def device_(self) -> "torch.device":
        """Where the model runs, resolved now."""
        try:
            return resolve_device(self.device)
        except (ImportError, ValueError) as error:
            # The HTML representation and `dir` ask for it where there may be none.
            raise AttributeError(str(error)) from error

    @property
    def _n_features_out(self) -> int:
        if "embedding_dim_" in vars(self):
            return self.embedding_dim_
        # Without `fit`, `transform` gives data frames too. No model is loaded for it:
        # the HTML representation asks as well.
        named = str(self.model_name), str(self.pretrained)
        gives_frames = _get_output_config("transform", self)["dense"] != "default"
        if not gives_frames or named not in _widths:
            raise AttributeError("the featurizer is not fitted")
        return _widths[named]

    def _note_encoder(self) -> CLIPModel:
        """Load the model, and keep what it is."""
        self.__dict__.pop("encoder_", None)
        check_templates(self.prompt_templates)
        clip = self.load()
        self.encoder_ = clip.identity
        self.embedding_dim_ = self.encoder_.embedding_dim
        self.logit_scale_ = self.encoder_.logit_scale
        return clip

    def _n_batches(self, images: Any) -> int | None:
        """Return how often the model runs at most, or None if nobody knows."""
        n_images = length_of(images)
        if n_images is None:
            return None
        size = plan_passes(
            resolve_device(self.device),
            n_images=n_images,
            batch_size=self.batch_size,
            num_workers=self._n_workers(),
        )[1]
        return -(-n_images // size)

    def _n_workers(self) -> int:
        return default_num_workers() if self.num_workers is None else self.num_workers

    @_fit_context(prefer_skip_nested_validation=True)
    def _embed_with_callbacks(self, images: Any, out: NDArray | None) -> EmbeddingArray:
        context = self._init_callback_context(
            task_name="transform", max_subtasks=self._n_batches(images)
        )
        context.call_on_fit_task_begin(estimator=self)
        embeddings = self._embed(self.load(), images, context, out)
        context.call_on_fit_task_end(estimator=self)
        return embeddings

    def _embed(
        self,
        clip: CLIPModel,
        images: Any,
        context: Any = None,
        out: NDArray | None = None,
    ) -> EmbeddingArray:
        """Embed images, each pass of the model a subtask of `context`."""
        container = _get_output_config("transform", self)["dense"]
        if self.output == "tokens" and container != "default":
            raise ValueError(
                "output='tokens' gives a 3-D array, which no data frame can hold; use "
                "set_output(transform='default') or output='embedding'."
            )
        dense_mode = None
        if self.output == "tokens":
            is_auto = self.dense_mode == "auto"
            dense_mode = clip.dense_mode if is_auto else self.dense_mode
        if out is not None:
            width = clip.identity.embedding_dim
            row_shape = (width,) if dense_mode is None else (None, width)
            check_out(out, length_of(images), row_shape)
        show = self.progress
        if show == "auto":
            show = is_watched() and not has_callbacks(self)
        n_images = length_of(images)
        with (
            self._open_cache(clip, dense_mode) as cache,
            progress(n_images, bool(show)) as done,
        ):
            embeddings = embed_images(
                clip,
                images,
                dense_mode=dense_mode,
                batch_size=self.batch_size,
                num_workers=self._n_workers(),
                on_error=self.on_error,
                cache=cache,
                out=out,
                task=nullcontext if context is None else partial(self._task, context),
                done=done,
            )
        return EmbeddingArray(embeddings, self._identity(clip))

    def _identity(self, clip: CLIPModel) -> EncoderIdentity:
        """Return the identity by which names are to be encoded later on."""
        cache = None
        if self.cache is not None:
            folder = os.path.abspath(os.path.expanduser(self.cache))
            cache = os.fspath(folder), int(self.cache_size)
        templates = self.prompt_templates
        return replace(clip.identity, prompt_templates=templates, cache=cache)

    def _open_cache(self, clip: CLIPModel, dense_mode: str | None) -> Any:
        if self.cache is None:
            return nullcontext()
        return EmbeddingCache(self.cache, clip, dense_mode, self.cache_size)

    @contextmanager
    def _task(self, context: Any) -> Iterator[None]:
        """Tell the callbacks of the batch computed within."""
        subtask = context.subcontext(task_name="batch")
        subtask.call_on_fit_task_begin(estimator=self)
        yield
        subtask.call_on_fit_task_end(estimator=self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _check_labels(y: Any, n_images: int | None, X: Any = None) -> None:
    """Refuse labels before an image is read.

    Here their number counts alone. What is wrong in them is known by the classifier
    that they are for, if there is one.
    """
    shape, n_labels = getattr(y, "shape", None), None
    if shape is not None:  # a sparse matrix has no length
        n_labels = shape[0] if len(shape) else None
    elif isinstance(y, Sized) and not isinstance(y, str | bytes):
        n_labels = len(y)
    if None not in (n_images, n_labels) and n_images != n_labels:
        raise ValueError(
            f"X has {n_images} images, but y has {n_labels} labels: found input "
            f"variables with inconsistent numbers of samples: [{n_images}, {n_labels}]."
        )
    check = getattr(last_step_of_caller(), "_check_before_embedding", None)
    if check is not None:
        if y is None and (line := line_for_targets(X)):
            raise ValueError(
                "y is None. Of a data set the images are taken; what is to be learned "
                f"goes into y: {line}."
            )
        check(y)


def takes_images(model: Any) -> bool:
    """Return whether a fitted model starts from images: by a featurizer, first of all.

    Parameters
    ----------
    model : estimator
        A pipeline, maybe with others in it and round it.

    Returns
    -------
    bool
    """
    while not isinstance(model, CLIPFeaturizer):
        if isinstance(model, Pipeline) and model.steps:
            model = model.steps[0][1]
            continue
        names = ("best_estimator_", "estimator_", "estimator")
        name = next((name for name in names if hasattr(model, name)), None)
        if name is None:
            return False
        model = getattr(model, name)
    return True
