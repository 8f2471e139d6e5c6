"""Texts to the tokens of a model, and what the model cannot read of the texts."""

import hashlib
import re
from functools import cached_property

from skfewshot._sklearn import warn_user

# Far more characters than a token has on average, for each token that a model reads:
# what lies beyond would be cut off, but the time that tokenizers take for a long word
# grows with the square of its length.
_CHARACTERS_PER_TOKEN = 16
_SHOWN = 5


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

    def __init__(self, clip):
        self._tokenizer = clip.tokenizer
        self._length = getattr(clip.tokenizer, "context_length", None)
        self.digests = []
        self.cut = []

    @cached_property
    def _blank(self):
        return self._tokenizer([""])[0]

    def tokens(self, texts):
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

    def _note_cut(self, texts, shorter, tokens):
        """Note the texts of which one more token could have been read."""
        if self._length is None:
            return
        # Where a row ends as that of no text does, there was room for another token.
        # Two, for some tokenizers put the same at the end of all rows.
        is_full = (tokens[:, -2:] != self._blank[-2:]).any(dim=1)
        doubtful = is_full.nonzero()[:, 0].tolist()
        if not doubtful:
            return
        longer = self._tokenizer(
            [shorter[index] for index in doubtful], context_length=self._length + 1
        )
        # Where all was read, there is one more token of padding, and else one of text.
        padding = self._blank.mode().values
        before, after = ((t == padding).sum(dim=1) for t in (tokens[doubtful], longer))
        for index, is_cut in zip(doubtful, (before == after).tolist(), strict=True):
            if is_cut or len(shorter[index]) < len(texts[index]):
                self.cut.append(texts[index])

    def warn_of_cut(self, parameter):
        """Warn of texts of which the model reads the first part alone."""
        if self.cut:
            warn_user(
                f"Texts are cut off, for the model reads {self._length} tokens: "
                f"{len(self.cut)} of those of {parameter}, such as "
                f"{_show(self.cut[0])}. Say what matters first, or in fewer words."
            )

    def warn_of_same(self, names):
        """Warn of different names that have the same tokens in every prompt.

        Parameters
        ----------
        names : list of str
            Of which the texts so far are the prompts, those of a name side by side.
        """
        n_prompts = len(self.digests) // len(names)
        names_of = {}
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


def _first_characters(text, most):
    """Return a text up to so many characters, spaces not counted."""
    if len(text) <= most:
        return text
    for word in re.finditer(r"\S+", text):
        most -= len(word[0])
        if most < 0:
            return text[: word.end() + most]
    return text


def _show(text):
    if len(text) <= 80:
        return repr(text)
    return f"{text[:40]!r}...{text[-20:]!r} ({len(text):,} characters)"
