"""Embeddings of a data set on disk: each image once, in a file that only grows.

``papers.py`` reads it. A file holds the rows that were asked for so far, in the order
in which they came. They are appended by the thousand, and a second file, replaced at
once after each thousand, says which they are: an interruption costs a thousand images
at most, and what stands behind the last row of it is cut off.
"""

import hashlib
import json
import os
import re
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np

from skfewshot.clip import (
    DEFAULT_PROMPT_TEMPLATES,
    EmbeddingArray,
    EncoderIdentity,
)

#: Images between two notes of what is done.
BLOCK = 1000


class FeatureStore:
    """The embeddings of some images of a data set by one model.

    Parameters
    ----------
    folder : Path
        Where the files are, or will be.
    featurizer : CLIPFeaturizer
        Only loaded if an image has to be embedded.
    name : str
        Of the data set and what it is embedded for; a part of the files' names.
    images : list of str
        The paths of all images of the data set.
    dtype : dtype
        What the embeddings are stored in.

    Attributes
    ----------
    digest : str
        Of the paths below the folder that all share. Where it changes, the files are
        written anew; that the content of an image has changed is not seen.
    """

    def __init__(self, folder, featurizer, name, images, dtype=np.float32):
        model = f"{featurizer.model_name}-{featurizer.pretrained or ''}".strip("-")
        stem = file_name(f"{name}-{model}")
        self._data, self._index = folder / f"{stem}.bin", folder / f"{stem}.json"
        self._texts = folder / f"{stem}.texts.npz"
        self._featurizer, self._images = featurizer, images
        self._dtype = np.dtype(dtype)
        self.digest = digest_of(images)
        self._read()

    def _read(self):
        """Read what is there, or start anew."""
        self._identity, self._shape, rows = None, None, []
        if self._index.exists() and self._data.exists():
            index = json.loads(self._index.read_text())
            same = index["images"] == self.digest and index["dtype"] == self._dtype.str
            if same:
                self._identity = EncoderIdentity(**index["encoder"])
                self._shape, rows = tuple(index["shape"]), index["rows"]
        self._rows = rows
        self._places = {row: place for place, row in enumerate(rows)}

    @property
    def identity(self):
        """The encoder: what the files say, or the model that is loaded for them."""
        if self._identity is None:
            self._identity = self._featurizer.load().identity
        return self._identity

    def embed(self, rows):
        """Embed those of some images that are not in the file yet.

        Returns
        -------
        int
            How many were.
        """
        missing = [row for row in map(int, rows) if row not in self._places]
        missing = list(dict.fromkeys(missing))
        if not missing:
            return 0
        if self._featurizer.load().identity != self.identity:
            # Other weights of the same name: what they are not of goes.
            self._index.unlink(missing_ok=True)
            self._read()
            return self.embed(rows)
        self._data.parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(missing), BLOCK):
            self._append(missing[start : start + BLOCK])
            print(f"{self._data.name}: {len(self._rows)} images", flush=True)
        return len(missing)

    def _append(self, rows):
        found = self._featurizer.transform([self._images[row] for row in rows])
        block = np.ascontiguousarray(found, dtype=self._dtype)
        self._shape = block.shape[1:]
        n_bytes = len(self._rows) * block[0].nbytes
        with open(self._data, "r+b" if n_bytes else "wb") as file:
            file.truncate(n_bytes)
            file.seek(n_bytes)
            file.write(block.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._places |= {row: len(self._rows) + i for i, row in enumerate(rows)}
        self._rows = self._rows + list(rows)
        encoder = {**asdict(self.identity), "prompt_templates": "default"}
        index = {
            "images": self.digest,
            "dtype": self._dtype.str,
            "shape": self._shape,
            "encoder": encoder,
            "rows": self._rows,
        }
        with _replacing(self._index) as file:
            file.write(json.dumps(index).encode())

    def take(self, rows):
        """Return embeddings in float32 as an EmbeddingArray, of rows that are there.

        Parameters
        ----------
        rows : array-like of int
        """
        shape = (len(self._rows), *self._shape)
        stored = np.memmap(self._data, self._dtype, mode="r", shape=shape)
        found = stored[[self._places[row] for row in map(int, rows)]]
        return EmbeddingArray(np.asarray(found, dtype=np.float32), self.identity)

    def texts(self, names):
        """Return the embedded class names, by the default prompts, once encoded."""
        prompts = self.identity.fingerprint, list(names), DEFAULT_PROMPT_TEMPLATES
        wanted = hashlib.sha256(repr(prompts).encode()).hexdigest()
        if self._texts.exists():
            with np.load(self._texts) as file:
                if str(file["of"]) == wanted:
                    return EmbeddingArray(file["texts"], self.identity)
        texts = self._featurizer.encode_classes(list(names))
        with _replacing(self._texts) as file:
            np.savez(file, texts=np.asarray(texts), of=wanted)
        return EmbeddingArray(np.asarray(texts), self.identity)


def file_name(text):
    """Return a text as a part of a file's name: tags may be paths."""
    return re.sub(r"[^\w.-]+", "_", text)


@contextmanager
def _replacing(path):
    """Open a file that takes the place of another once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with open(new, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def digest_of(images, *others):
    """Return twelve letters for the paths of images, and arrays and names with them."""
    root = os.path.commonpath(images) if len(images) > 1 else os.path.dirname(images[0])
    digest = hashlib.sha256()
    for image in images:
        digest.update(image[len(root) :].encode() + b"\0")
    for other in others:
        part = (
            other.tobytes() if isinstance(other, np.ndarray) else repr(other).encode()
        )
        digest.update(part)
    return digest.hexdigest()[:12]
