"""Class names to embeddings: prompts, tokens, and what the model leaves unread."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._sklearn import warn_user
from skfewshot._torch import fork_safe_threads, resolve_device
from skfewshot.clip._embedding import EmbeddingArray, EncoderIdentity
from skfewshot.clip._models import CLIPModel, load_clip

if TYPE_CHECKING:
    import torch

#: The templates of ``prompt_templates="default"``: what a picture is of, and how it
#: may have been taken.
DEFAULT_PROMPT_TEMPLATES = (
    "a photo of a {}.",
    "a picture of the {}.",
    "a close-up photo of a {}.",
    "a photo of one {} among other things.",
    "a blurry photo of a {}.",
    "a drawing of a {}.",
    "an image that shows a {}.",
)

Template = Callable[[str], str]

_BATCH_SIZE = 64
# Far more characters than a token has on average, for each token that a model reads:
# what lies beyond would be cut off, but the time that tokenizers take for a long word
# grows with the square of its length.
_CHARACTERS_PER_TOKEN = 16
_SHOWN = 5


def encode_names(
    identity: EncoderIdentity, names: Any, prompt_templates: Any = None
) -> EmbeddingArray:
    """Embed class names by the encoder that made an embedding.

    Parameters
    ----------
    identity : EncoderIdentity
        Its model is loaded, or found in the cache.
    names, prompt_templates
        See :meth:`~skfewshot.CLIPFeaturizer.encode_classes`; None takes the templates
        of the identity.

    Returns
    -------
    EmbeddingArray of float32 of shape (C, d)

    Raises
    ------
    ValueError
        If the weights that load now are not those that made the embedding.
    """
    if prompt_templates is None:
        prompt_templates = identity.prompt_templates
    templates, names = check_templates(prompt_templates), check_names(names)
    device = resolve_device(None)
    clip = load_clip(
        identity.model_name,
        identity.pretrained,
        device=device,
        resize_mode=identity.resize_mode,
    )
    if clip.identity != identity:
        raise ValueError(
            f"The embedding was made by {identity}, but that model and those weights "
            f"now load as {clip.identity}: the weights have changed since. Embed the "
            "images again with the weights that are there now."
        )
    return encode_classes(clip, names, templates)


def encode_classes(
    clip: CLIPModel,
    names: list[str],
    templates: list[Template],
    batch_size: int = _BATCH_SIZE,
) -> EmbeddingArray:
    """Embed class names, each as the mean over templates that were checked."""
    tokenizing = Tokenizing(clip)
    texts = fill_templates(templates, names)
    encoded = _embed(clip, texts, tokenizing, batch_size)
    tokenizing.warn_of_cut("names")
    tokenizing.warn_of_same(names)
    means = encoded.reshape(len(names), len(templates), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return EmbeddingArray(means, clip.identity)


def encode_texts(
    clip: CLIPModel, texts: list[str], batch_size: int = _BATCH_SIZE
) -> EmbeddingArray:
    """Embed texts as they are."""
    tokenizing = Tokenizing(clip)
    encoded = _embed(clip, texts, tokenizing, batch_size)
    tokenizing.warn_of_cut("texts")
    return EmbeddingArray(encoded, clip.identity)


def _embed(
    clip: CLIPModel, texts: list[str], tokenizing: "Tokenizing", batch_size: int
) -> NDArray:
    """Embed texts in batches; rows of float32 have length one."""
    import torch

    rows = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizing.tokens(texts[start : start + batch_size])
        with fork_safe_threads(), torch.inference_mode():
            encoded = clip.model.encode_text(tokens.to(clip.device)).float()
            rows.append(torch.nn.functional.normalize(encoded, dim=-1).cpu().numpy())
    return clip.check_finite(np.concatenate(rows))


def check_templates(prompt_templates: Any) -> list[Template]:
    """Return the prompt templates as a list of callables from name to text.

    Parameters
    ----------
    prompt_templates : "default", str, callable or sequence of str or callable
        A str has ``{}`` where the name goes.

    Returns
    -------
    list of callable

    Raises
    ------
    ValueError
        If there is no template, or one lacks the place for the name.
    TypeError
        If a template is neither str nor callable.
    """
    if isinstance(prompt_templates, str) and prompt_templates == "default":
        prompt_templates = DEFAULT_PROMPT_TEMPLATES
    if isinstance(prompt_templates, str) or callable(prompt_templates):
        prompt_templates = [prompt_templates]
    _check_ordered(prompt_templates, "prompt_templates")
    templates = list(prompt_templates)
    if not templates:
        raise ValueError("prompt_templates is empty; wanted is at least one template.")
    return [_as_function(template) for template in templates]


def check_names(names: Any, parameter: str = "names") -> list[str]:
    """Return texts as a list of str.

    Raises
    ------
    TypeError
        If `names` is one str, or holds anything but str.
    ValueError
        If it is empty.
    """
    if isinstance(names, str | bytes):
        raise TypeError(
            f"{parameter} is the single text {names!r:.80}; wanted is a sequence of "
            f"texts. Pass [{names!r:.80}]."
        )
    _check_ordered(names, parameter)
    names = list(names)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(
                f"{parameter} must be texts; got {name!r:.80} of type "
                f"{type(name).__name__} at index {index}."
            )
    if not names:
        raise ValueError(f"{parameter} is empty; wanted is at least one text.")
    return [str(name) for name in names]


def _check_ordered(values: Any, parameter: str) -> None:
    """Refuse what has no order of its own, or whose iteration gives something else."""
    if (
        isinstance(values, Mapping | Set)
        or hasattr(values, "columns")
        or not isinstance(values, Iterable)
    ):
        raise TypeError(
            f"{parameter} is a {type(values).__name__}; wanted is a sequence of texts, "
            "such as a list."
        )


def fill_templates(templates: list[Template], names: list[str]) -> list[str]:
    """Return the texts of all names, those of one name side by side.

    Parameters
    ----------
    templates : list of callable
        From :func:`check_templates`.
    names : list of str

    Returns
    -------
    list of str of length ``len(names) * len(templates)``
    """
    texts = [template(name) for name in names for template in templates]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"A prompt template returned {text!r:.80} of type "
                f"{type(text).__name__}; wanted is a str."
            )
    return texts


def _as_function(template: Any) -> Template:
    if callable(template):
        return template
    if not isinstance(template, str):
        raise TypeError(
            f"A prompt template is {template!r:.80} of type {type(template).__name__}; "
            "wanted is a str with {} in the place of the class name, or a callable."
        )
    if "{}" not in template:
        raise ValueError(
            f"The prompt template {template!r:.80} has no {{}} in the place of the "
            "class name, as in 'a photo of a {}.'."
        )
    # Not str.format: braces in a name or elsewhere in the template mean nothing.
    return lambda name: template.replace("{}", name)


class Tokenizing:
    """Turns texts into tokens, batch by batch, and notes what is lost.

    Parameters
    ----------
    clip : CLIPModel

    Attributes
    ----------
    digests : list of bytes
        One for each text so far; texts of the same tokens have the same.
    cut : list of str
        The texts so far that are longer than the model's context.
    """

    def __init__(self, clip: CLIPModel) -> None:
        self._tokenizer = clip.tokenizer
        self._length = getattr(clip.tokenizer, "context_length", None)
        self.digests: list[bytes] = []
        self.cut: list[str] = []

    def tokens(self, texts: list[str]) -> "torch.Tensor":
        """Return the tokens of some texts, as a tensor."""
        if self._length is None:
            shorter = texts
        else:
            most = _CHARACTERS_PER_TOKEN * self._length
            shorter = [_first_characters(text, most) for text in texts]
        tokens = self._tokenizer(shorter)
        self._note_cut(texts, shorter, tokens)
        self.digests.extend(
            hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            for row in tokens.numpy()
        )
        return tokens

    def _note_cut(
        self, texts: list[str], shorter: list[str], tokens: "torch.Tensor"
    ) -> None:
        """Note the texts of which one more token could have been read."""
        if self._length is None:
            return
        blank = self._tokenizer([""])[0]
        # Where a row ends as that of no text does, there was room for another token.
        # Two, for some tokenizers put the same at the end of all rows.
        is_full = (tokens[:, -2:] != blank[-2:]).any(dim=1)
        doubtful = is_full.nonzero()[:, 0].tolist()
        if not doubtful:
            return
        longer = self._tokenizer(
            [shorter[index] for index in doubtful], context_length=self._length + 1
        )
        # Where all was read, there is one more token of padding, and else one of text.
        padding = blank.mode().values
        before, after = ((t == padding).sum(dim=1) for t in (tokens[doubtful], longer))
        for index, is_cut in zip(doubtful, (before == after).tolist(), strict=True):
            if is_cut or len(shorter[index]) < len(texts[index]):
                self.cut.append(texts[index])

    def warn_of_cut(self, parameter: str) -> None:
        """Warn of texts of which the model reads the first part alone."""
        if self.cut:
            warn_user(
                f"Texts are cut off, for the model reads {self._length} tokens: "
                f"{len(self.cut)} of those of {parameter}, such as "
                f"{_show(self.cut[0])}. Say what matters first, or in fewer words."
            )

    def warn_of_same(self, names: list[str]) -> None:
        """Warn of different names that have the same tokens in every prompt.

        Parameters
        ----------
        names : list of str
            Of which the texts so far are the prompts, those of a name side by side.
        """
        n_prompts = len(self.digests) // len(names)
        names_of: dict[tuple, dict[str, None]] = {}
        for index, name in enumerate(names):
            prompts = tuple(self.digests[index * n_prompts : (index + 1) * n_prompts])
            names_of.setdefault(prompts, {})[name] = None
        same = [list(group) for group in names_of.values() if len(group) > 1]
        if same:
            shown = "; ".join(
                " and ".join(map(_show, group[:_SHOWN])) for group in same[:_SHOWN]
            )
            warn_user(
                "Some names are different, but the same to the model, and so are their "
                f"embeddings: {shown}. Models may ignore case and spaces, and what "
                "lies beyond their last token; choose names that differ in other ways."
            )


def _first_characters(text: str, most: int) -> str:
    """Return a text up to so many characters, spaces not counted."""
    if len(text) <= most:
        return text
    for word in re.finditer(r"\S+", text):
        most -= len(word[0])
        if most < 0:
            return text[: word.end() + most]
    return text


def _show(text: str) -> str:
    if len(text) <= 80:
        return repr(text)
    return f"{text[:40]!r}...{text[-20:]!r} ({len(text):,} characters)"
