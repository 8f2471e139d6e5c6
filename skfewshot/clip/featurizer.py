"""The transformer from images to embeddings on a frozen CLIP model."""

import os
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.callback import CallbackSupportMixin

from skfewshot._sklearn import (
    Interval,
    StrOptions,
    _fit_context,
    _get_output_config,
    has_callbacks,
)
from skfewshot._torch import resolve_device
from skfewshot.clip.dense import DENSE_MODES
from skfewshot.clip.embedding import EmbeddingArray
from skfewshot.clip.encoding import embed_images, embed_texts
from skfewshot.clip.images import as_image_sequence
from skfewshot.clip.models import load_clip
from skfewshot.clip.prompts import check_names, check_templates, fill_templates
from skfewshot.clip.sources import DEFAULT_PRETRAINED


class CLIPFeaturizer(
    ClassNamePrefixFeaturesOutMixin,
    CallbackSupportMixin,
    TransformerMixin,
    BaseEstimator,
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
        Images, or texts, in one pass of the model. Memory beyond the output does not
        grow with the number of images.
    device : str or None, default=None
        Where the model runs; ``None`` takes the first of CUDA, MPS and CPU there is.
    precision : {"auto", "fp32", "fp16", "bf16"}, default="auto"
        The number format of the weights. ``"auto"`` is fp16 on CUDA and fp32 elsewhere;
        fp16 needs CUDA, bf16 CUDA or the CPU. The output is float32 always.
    num_workers : int, default=0
        Threads that decode and resize images while the model runs; 0 decodes in the
        caller's thread.
    prompt_templates : "default", str, callable or sequence of str or callable, \
            default="default"
        Texts with ``{}`` in the place of the class name, or functions from a name to a
        text, for :meth:`encode_classes`. ``"default"`` is
        `skfewshot.clip.DEFAULT_PROMPT_TEMPLATES`.
    on_error : {"raise", "nan"}, default="raise"
        What to do about an image that is missing or cannot be read: raise
        :class:`ImageReadError` with its index and path, or warn and give NaN.

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
    skfewshot.classifiers.CMMClassifier : Learns from a few embeddings a class.
    clear_model_cache : Frees the memory of the cached models.

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
        "num_workers": [Interval(Integral, 0, None, closed="left")],
        "prompt_templates": [str, callable, "array-like"],
        "on_error": [StrOptions({"raise", "nan"})],
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
        num_workers=0,
        prompt_templates="default",
        on_error="raise",
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
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        as_image_sequence(X)
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
        images = as_image_sequence(X)
        context = self._init_callback_context(max_subtasks=self._n_batches(images))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._note_encoder()
        embeddings = self._embed(images, context)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return embeddings

    def transform(self, X):
        """Embed images.

        Parameters
        ----------
        X : sequence of images
            A list, tuple or 1-D array of PIL images, paths or uint8 arrays (H, W, 3); a
            uint8 array (n, H, W, 3); or a pandas or polars column of paths. Grey,
            palette, transparent (laid on white), CMYK, 16-bit and EXIF-rotated images
            come out right, and arrays may be grey, (H, W) or (H, W, 1), or have a
            fourth channel of opacity.

        Returns
        -------
        EmbeddingArray of float32
            Of shape (n, d), with rows of length one; for ``output="tokens"`` of shape
            (n, 1 + K, d), where row 0 is the global embedding and the K patches follow
            in reading order, all of length one.

        Raises
        ------
        TypeError, ValueError
            If X is not a sequence of images.
        ImageReadError
            If an image cannot be read, under ``on_error="raise"``. A ValueError.
        WeightsDownloadError
            If the weights had to be downloaded, and that failed. A ConnectionError.
        """
        self._validate_params()
        images = as_image_sequence(X)
        if not has_callbacks(self):
            return self._embed(images)
        return self._embed_with_callbacks(images)

    def encode_text(self, texts):
        """Embed texts as they are.

        Parameters
        ----------
        texts : sequence of str
            Longer ones than the model's context (77 tokens for CLIP) are cut off.

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
        texts = check_names(texts, "texts")
        clip = self.load()
        encoded = embed_texts(clip, texts, batch_size=self.batch_size)
        return EmbeddingArray(encoded, clip.identity)

    def encode_classes(self, names, prompt_templates=None):
        """Embed class names, each as the mean over the prompt templates.

        Parameters
        ----------
        names : sequence of str
            Taken as they are: write "polar bear", not "polar_bear".
        prompt_templates : str, callable, sequence or None, default=None
            As the parameter of the estimator, which ``None`` takes.

        Returns
        -------
        EmbeddingArray of float32 of shape (C, d)
            The mean of the normalised embeddings of a name's prompts, normalised again.

        Raises
        ------
        TypeError, ValueError
            If a name is not a str, or a template lacks the place for the name.
        """
        self._validate_params()
        if prompt_templates is None:
            prompt_templates = self.prompt_templates
        templates = check_templates(prompt_templates)
        names = check_names(names)
        texts = fill_templates(templates, names)
        clip = self.load()
        encoded = embed_texts(clip, texts, batch_size=self.batch_size)
        means = encoded.reshape(len(names), len(templates), -1).mean(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return EmbeddingArray(means, clip.identity)

    def load(self):
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
            device=self.device_,
            precision=self.precision,
        )
        fitted = getattr(self, "encoder_", None)
        if fitted is not None and fitted != clip.identity:
            raise ValueError(
                f"This featurizer was fitted with {fitted}, but now {clip.identity} "
                "loads: the parameters or the weights have changed. Fit it again."
            )
        return clip

    @property
    def device_(self):
        """torch.device: where the model runs, resolved now."""
        return resolve_device(self.device)

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
        return -(-len(images) // self.batch_size)

    @_fit_context(prefer_skip_nested_validation=True)
    def _embed_with_callbacks(self, images):
        context = self._init_callback_context(
            task_name="transform", max_subtasks=self._n_batches(images)
        )
        context.call_on_fit_task_begin(estimator=self)
        embeddings = self._embed(images, context)
        context.call_on_fit_task_end(estimator=self)
        return embeddings

    def _embed(self, images, context=None):
        """Embed images, each batch a subtask of `context`."""
        container = _get_output_config("transform", self)["dense"]
        if self.output == "tokens" and container != "default":
            raise ValueError(
                "output='tokens' gives a 3-D array, which no data frame can hold; use "
                "set_output(transform='default') or output='embedding'."
            )
        clip = self.load()
        dense_mode = clip.dense_mode if self.dense_mode == "auto" else self.dense_mode
        embeddings = embed_images(
            clip,
            images,
            dense_mode=dense_mode if self.output == "tokens" else None,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            on_error=self.on_error,
            task=partial(self._batch_task, context),
        )
        # Class names are to be encoded with these templates later on.
        encoder = replace(clip.identity, prompt_templates=self.prompt_templates)
        return EmbeddingArray(embeddings, encoder)

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
