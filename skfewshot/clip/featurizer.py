"""The transformer from images to embeddings on a frozen CLIP model."""

import os
from collections.abc import Sized
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import CallbackSupportMixin

from skfewshot._sklearn import (
    Interval,
    StrOptions,
    _fit_context,
    _get_output_config,
    has_callbacks,
)
from skfewshot._torch import import_torch, resolve_device
from skfewshot.clip.cache import DEFAULT_SIZE, SMALLEST_SIZE, open_cache
from skfewshot.clip.cache_rows import space_key
from skfewshot.clip.dense import DENSE_MODES
from skfewshot.clip.embedding import EmbeddingArray, mark_tensor
from skfewshot.clip.encoder import CLIPEncoder
from skfewshot.clip.images import as_images
from skfewshot.clip.output import ArrayRows, TensorRows, check_out
from skfewshot.clip.passes import embed_images, plan_passes
from skfewshot.clip.preprocessing import Preprocessor
from skfewshot.clip.prompts import check_templates
from skfewshot.clip.sources import DEFAULT_PRETRAINED
from skfewshot.clip.streaming import Reader, default_num_workers


class CLIPFeaturizer(
    ClassNamePrefixFeaturesOutMixin,
    CallbackSupportMixin,
    TransformerMixin,
    CLIPEncoder,
):
    """Embed images, and class names, with a frozen CLIP model of open_clip.

    Images and texts land in one space, so that the cosine between an image and a class
    name says how well they fit. Nothing is trained: :meth:`transform`,
    :meth:`encode_text` and :meth:`encode_classes` work without :meth:`fit`, which only
    checks the parameters and notes the encoder. The weights are kept in a cache that
    all featurizers of the process share, never in the estimator.

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
        activation and preprocessing of `model_name`: for OpenAI's weights and others
        trained with QuickGELU that is ``"ViT-B-32-quickgelu"`` and the like.
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
    num_workers : int or None, default=None
        Threads that decode and resize images while the model runs, which on a CPU runs
        in as many threads on parts of a batch; 0 does both in turn in the caller's
        thread. ``None`` is as many as torch computes with, which is one for each core,
        and fewer in the workers of joblib.
    prompt_templates : "default", str, callable or sequence of str or callable, \
            default="default"
        Texts with ``{}`` in the place of the class name, or functions from a name to a
        text, for :meth:`encode_classes`. ``"default"`` is
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
        processes or later runs. A file that has changed is another image. Processes
        may share it at the same time, and may be killed at any time. One that may not
        be written to is read, with a warning. On a disk of this machine, not on a
        network file system.
    cache_size : int, default=10 * 2**30
        The bound on the cache in bytes, at least ``2**20``, without the log of what was
        written last (8 MiB, more while others read). A full cache loses what was
        embedded longest ago.
    output_type : {"numpy", "torch"}, default="numpy"
        Arrays, or tensors of torch that stay on the device of the model: under
        ``sklearn.set_config(array_api_dispatch=True)`` the classifiers of this package
        learn and predict from them there.

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
        "num_workers": [Interval(Integral, 0, None, closed="left"), None],
        "prompt_templates": [str, callable, "array-like"],
        "on_error": [StrOptions({"raise", "nan"})],
        "cache": [str, os.PathLike, None],
        "cache_size": [Interval(Integral, SMALLEST_SIZE, None, closed="left")],
        "output_type": [StrOptions({"numpy", "torch"})],
    }

    def __init__(
        self,
        model_name="ViT-B-32",
        pretrained=DEFAULT_PRETRAINED,
        *,
        output="embedding",
        dense_mode="auto",
        batch_size=64,
        device=None,
        precision="auto",
        num_workers=None,
        prompt_templates="default",
        on_error="raise",
        cache=None,
        cache_size=DEFAULT_SIZE,
        output_type="numpy",
    ):
        self.model_name = model_name
        self.pretrained = pretrained
        self.output = output
        self.dense_mode = dense_mode
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.prompt_templates = prompt_templates
        self.on_error = on_error
        self.cache = cache
        self.cache_size = cache_size
        self.output_type = output_type

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters and X, load the model and note which one it is.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`. The images themselves are not read.
        y : ignored

        Returns
        -------
        self : CLIPFeaturizer
        """
        import_torch()
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        as_images(X)
        self._note_encoder()
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Fit, and embed the images once.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`.
        y : ignored

        Returns
        -------
        EmbeddingArray
            See :meth:`transform`.
        """
        import_torch()
        images = as_images(X)
        context = self._init_callback_context(max_subtasks=self._n_batches(images))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._note_encoder()
        embeddings = self._embed(images, context)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return embeddings

    def transform(self, X, out=None):
        """Embed images.

        Parameters
        ----------
        X : sequence or iterable of images
            A list, tuple or 1-D array of PIL images, paths or uint8 arrays (H, W, 3); a
            uint8 array (n, H, W, 3); or a pandas or polars column of paths. Grey,
            palette, transparent (laid on white), CMYK, 16-bit and EXIF-rotated images
            come out right, and arrays may be grey, (H, W) or (H, W, 1), or have a
            fourth channel of opacity. A generator is read once, a few batches ahead.
        out : ndarray of float32 or None, default=None
            Where to write the embeddings, such as a memory map that is larger than the
            memory of the machine: of the shape below, with more rows if need be where
            X is an iterable of unknown length.

        Returns
        -------
        EmbeddingArray of float32
            Of shape (n, d), with rows of length one; for ``output="tokens"`` of shape
            (n, 1 + K, d), where row 0 is the global embedding and the K patches follow
            in reading order, all of length one. On the memory of `out`, if given. For
            ``output_type="torch"`` a tensor; as an attribute, it knows its `encoder`.

        Raises
        ------
        TypeError, ValueError
            If X does not hold images, or `out` has another type, dtype or shape.
        ImageReadError
            If an image cannot be read, under ``on_error="raise"``. A ValueError.
        WeightsDownloadError
            If the weights had to be downloaded, and that failed. A ConnectionError.
        """
        self._validate_params()
        import_torch()
        images = as_images(X)
        if not has_callbacks(self):
            return self._embed(images, out=out)
        return self._embed_with_callbacks(images, out)

    @property
    def _n_features_out(self):
        return self.embedding_dim_

    def _note_encoder(self):
        self.__dict__.pop("encoder_", None)
        check_templates(self.prompt_templates)
        self.encoder_ = self.load().identity
        self.embedding_dim_ = self.encoder_.embedding_dim
        self.logit_scale_ = self.encoder_.logit_scale

    def _n_batches(self, images):
        """Return how often the model runs at most, or None if nobody knows."""
        n_images = _length(images)
        if n_images is None:
            return None
        size = plan_passes(
            resolve_device(self.device),
            n_images=n_images,
            batch_size=self.batch_size,
            num_workers=self._n_workers(),
        )[1]
        return -(-n_images // size)

    def _n_workers(self):
        return default_num_workers() if self.num_workers is None else self.num_workers

    @_fit_context(prefer_skip_nested_validation=True)
    def _embed_with_callbacks(self, images, out):
        context = self._init_callback_context(
            task_name="transform", max_subtasks=self._n_batches(images)
        )
        context.call_on_fit_task_begin(estimator=self)
        embeddings = self._embed(images, context, out)
        context.call_on_fit_task_end(estimator=self)
        return embeddings

    def _embed(self, images, context=None, out=None):
        """Embed images, each pass of the model a subtask of `context`."""
        self._check_output(out)
        clip = self.load()
        dense_mode = None
        if self.output == "tokens":
            is_auto = self.dense_mode == "auto"
            dense_mode = clip.dense_mode if is_auto else self.dense_mode
        embeddings = embed_images(
            clip,
            images,
            self._rows(clip, _length(images), out),
            self._reader(clip, dense_mode),
            dense_mode=dense_mode,
            batch_size=self.batch_size,
            num_workers=self._n_workers(),
            task=partial(self._batch_task, context),
        )
        # Class names are to be encoded with these templates later on.
        encoder = replace(clip.identity, prompt_templates=self.prompt_templates)
        if self.output_type == "torch":
            return mark_tensor(embeddings, encoder)
        return EmbeddingArray(embeddings, encoder)

    def _check_output(self, out):
        """Refuse settings of the output that do not go together."""
        container = _get_output_config("transform", self)["dense"]
        if self.output == "tokens" and container != "default":
            raise ValueError(
                "output='tokens' gives a 3-D array, which no data frame can hold; use "
                "set_output(transform='default') or output='embedding'."
            )
        if self.output_type == "torch" and (container != "default" or out is not None):
            other = "out" if out is not None else f"set_output(transform={container!r})"
            raise ValueError(
                f"output_type='torch' gives a tensor of its own, and {other} asks for "
                "something else; use output_type='numpy'."
            )

    def _rows(self, clip, n_images, out):
        """Return what takes the embeddings."""
        if self.output_type == "torch":
            return TensorRows(n_images, clip.device)
        if out is not None:
            check_out(out, n_images, self._row_shape(clip))
        return ArrayRows(n_images, out)

    def _row_shape(self, clip):
        """Return the shape of an embedding, None for a length that nobody knows."""
        width = clip.identity.embedding_dim
        return (width,) if self.output == "embedding" else (None, width)

    def _reader(self, clip, dense_mode):
        """Return what reads the images."""
        cache = None if self.cache is None else open_cache(self.cache, self.cache_size)
        return Reader(
            Preprocessor(clip.preprocess),
            clip.input_size,
            self.on_error,
            cache,
            b"" if cache is None else space_key(clip, dense_mode),
            self._row_shape(clip),
        )

    @contextmanager
    def _batch_task(self, context):
        """Tell the callbacks, if there are any, of the batch computed within."""
        if context is None:
            yield
            return
        subtask = context.subcontext(task_name="batch")
        subtask.call_on_fit_task_begin(estimator=self)
        yield
        subtask.call_on_fit_task_end(estimator=self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _length(images):
    return len(images) if isinstance(images, Sized) else None
