"""Loading the CLIP model of an estimator, and embedding texts with it."""

import numpy as np

from skfewshot._sklearn import Estimator
from skfewshot._torch import resolve_device
from skfewshot.clip.embedding import EmbeddingArray
from skfewshot.clip.encoding import embed_texts
from skfewshot.clip.models import load_clip
from skfewshot.clip.prompts import check_names, check_templates, fill_templates
from skfewshot.clip.tokenizing import Tokenizing


class CLIPEncoder(Estimator):
    """Base of the featurizer: what needs the model but no images.

    A subclass has the parameters `model_name`, `pretrained`, `device`, `precision`,
    `batch_size` and `prompt_templates`, and may have ``encoder_``.
    """

    def encode_text(self, texts):
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
        texts = check_names(texts, "texts")
        clip = self.load()
        tokenizing = Tokenizing(clip)
        encoded = embed_texts(clip, texts, tokenizing, batch_size=self.batch_size)
        tokenizing.warn_of_cut("texts")
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
        texts = fill_templates(templates, names)
        clip = self.load()
        tokenizing = Tokenizing(clip)
        encoded = embed_texts(clip, texts, tokenizing, batch_size=self.batch_size)
        tokenizing.warn_of_cut("names")
        tokenizing.warn_of_same(names)
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
            device=resolve_device(self.device),
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
        """Where the model runs, resolved now."""
        try:
            return resolve_device(self.device)
        except (ImportError, ValueError) as error:
            # The HTML representation and `dir` ask for it where there may be none.
            raise AttributeError(str(error)) from error
