"""Word vectors that know nothing of images: which words of captions stand together.

``python benchmarks/caption_vectors.py --captions 20000 --width 100 --out words.txt``
writes them as GloVe does, one word a line.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer

from skfewshot.datasets import COLORS, KINDS

# The maker of captions is private: no user needs captions without their pictures.
from skfewshot.datasets._kinds import random_caption

#: Of counts of neighbours, as GloVe and word2vec have it: rare words are not overrated.
SMOOTHING = 0.75
#: Words on either side that count as neighbours: about the phrase of an object.
WINDOW = 3


def make_captions(n_captions, seed, kinds=KINDS):
    """Draw captions as the renderer does, of one to four objects, without pictures."""
    rng = np.random.default_rng(seed)
    colors, captions = list(COLORS), []
    for _ in range(n_captions):
        chosen = rng.choice(len(kinds), rng.integers(1, 5), replace=False)
        own = rng.choice(colors, len(chosen)).tolist()
        names = [kinds[index] for index in chosen]
        captions.append(random_caption(rng, names, own, str(rng.choice(colors))))
    return captions


def caption_vectors(n_captions=20_000, width=100, seed=0, kinds=KINDS):
    """Return {word: vector} by positive pointwise mutual information, and its SVD.

    Features are the words within three places before or after a word, each place a
    feature of its own; words of a caption that stand in the same places of the same
    neighbours have like vectors, as "star" and "heart" have.
    """
    reader = CountVectorizer(token_pattern=r"[a-z]+(?:-[a-z]+)*")
    captions = make_captions(n_captions, seed, kinds)
    words = list(reader.fit(captions).vocabulary_)
    counts = _count_neighbours(captions, words, reader.build_analyzer())
    of_word = counts.sum(axis=1, keepdims=True) / counts.sum()
    of_context = counts.sum(axis=0) ** SMOOTHING
    by_chance = of_word * of_context / of_context.sum()
    ratio = counts / counts.sum() / np.maximum(by_chance, np.finfo(float).tiny)
    information = np.log(np.maximum(ratio, 1))
    rank = min(width, min(information.shape) - 1)
    vectors = TruncatedSVD(rank, random_state=seed).fit_transform(information)
    # Half of the singular values' weight, as word vectors are usually made. Where there
    # are fewer words than the width, a random rotation spreads them over all columns.
    vectors /= np.sqrt(np.linalg.norm(vectors, axis=0))
    if rank < width:
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(width, rank)))
        vectors = vectors @ rotation.T
    return dict(zip(words, vectors, strict=True))


def _count_neighbours(captions, words, analyze):
    """Return how often words stand in places round others, (n_words, places * n)."""
    index, n = {word: i for i, word in enumerate(words)}, len(words)
    # Between two captions nobody is a neighbour.
    gap = [n] * WINDOW
    rows = [[index[word] for word in analyze(caption)] + gap for caption in captions]
    line = np.concatenate(rows)
    counts = np.zeros((n, 2 * WINDOW, n))
    for offset in range(1, WINDOW + 1):
        left, right = line[:-offset], line[offset:]
        both = (left < n) & (right < n)
        pairs = np.bincount(left[both] * n + right[both], minlength=n * n)
        counts[:, WINDOW + offset - 1] = pairs.reshape(n, n)
        counts[:, offset - 1] = pairs.reshape(n, n).T
    return counts.reshape(n, -1)


def write_vectors(vectors, path):
    """Write word vectors as GloVe does."""
    lines = [
        f"{word} {' '.join(f'{value:.5f}' for value in vector)}\n"
        for word, vector in vectors.items()
    ]
    Path(path).write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="words.txt")
    options = parser.parse_args()
    found = caption_vectors(options.captions, options.width, options.seed)
    write_vectors(found, options.out)
    print(f"{len(found)} words, {options.width} wide, in {options.out}")
