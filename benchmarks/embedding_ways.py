"""The ways to embed JPEG files that ``featurize.py`` compares, each a function.

A way takes a :class:`Task` and returns a function without arguments, which embeds all
images once and returns unit rows (n, d). What a program does once, such as loading a
model, happens before that function is returned and is not timed.
"""

import atexit
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import open_clip
import torch
from hugging_face import save_random_clip
from PIL import Image

from skfewshot.clip import CLIPFeaturizer
from skfewshot.clip._images import read_image
from skfewshot.clip._passes import Preprocessor


@dataclass(frozen=True)
class Task:
    """What is embedded, and by which model.

    Attributes
    ----------
    paths : list of str
    settings : dict
        Of CLIPFeaturizer: which model, which batch size.
    """

    paths: list
    settings: dict

    def featurizer(self, **settings):
        return CLIPFeaturizer(**self.settings, **settings)

    @cached_property
    def clip(self):
        """The loaded model and open_clip's preprocessing, which all ways share."""
        return self.featurizer().load()

    @property
    def batch_size(self):
        return self.settings["batch_size"]

    @property
    def on_gpu(self):
        return self.clip.device.type == "cuda"

    @cached_property
    def inputs(self):
        """The images ready for the model: tensor (n, 3, H, W) on its device."""
        ready = [self.clip.preprocess(image) for image in open_images(self.paths)]
        return torch.stack(ready).to(self.clip.device, self.clip.dtype)

    @cached_property
    def pixels(self):
        """The images of the model's size: uint8 array (n, H, W, 3)."""
        to_pixels = Preprocessor(self.clip.preprocess).to_pixels
        return np.stack([to_pixels(image) for image in open_images(self.paths)])

    @cached_property
    def hugging_face_folder(self):
        """A folder with random weights of the same architecture, for transformers."""
        folder = self.temporary_folder()
        save_random_clip(folder, image_config(self))
        return folder

    def temporary_folder(self):
        """Return a new folder that is gone when the process ends."""
        folder = tempfile.mkdtemp(prefix="skfewshot-featurize-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def open_images(paths):
    return (Image.open(path).convert("RGB") for path in paths)


def in_batches(rows, size):
    return (rows[start : start + size] for start in range(0, len(rows), size))


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def to_array(batches):
    return torch.cat(list(batches)).float().cpu().numpy()


def bare_model(task):
    """The limit: the model alone, on batches of ready tensors."""

    def run():
        with torch.inference_mode():
            return to_array(
                unit(task.clip.model.encode_image(batch))
                for batch in in_batches(task.inputs, task.batch_size)
            )

    return run


def readme_loop(task):
    """One image at a time, as open_clip's README shows; it has autocast on CUDA."""
    model, preprocess = task.clip.model, task.clip.preprocess

    def embed(path):
        image = preprocess(Image.open(path)).unsqueeze(0)
        image = image.to(task.clip.device, task.clip.dtype)
        with torch.no_grad(), torch.autocast("cuda", enabled=task.on_gpu):
            image_features = model.encode_image(image)
            image_features /= image_features.norm(dim=-1, keepdim=True)
        return image_features

    return lambda: to_array(embed(path) for path in task.paths)


def batched_loop(task):
    """The same in batches, on one thread but for the model."""
    model, preprocess = task.clip.model, task.clip.preprocess

    def embed(paths):
        images = torch.stack([preprocess(Image.open(path)) for path in paths])
        images = images.to(task.clip.device, task.clip.dtype)
        return unit(model.encode_image(images))

    def run():
        with torch.inference_mode():
            return to_array(map(embed, in_batches(task.paths, task.batch_size)))

    return run


class Photos(torch.utils.data.Dataset):
    """Files, preprocessed by open_clip."""

    def __init__(self, paths, preprocess):
        self.paths, self.preprocess = paths, preprocess

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.preprocess(Image.open(self.paths[index]))


def data_loader(task, n_processes=2):
    """torch's DataLoader, whose processes read ahead and live on between runs."""
    loader = torch.utils.data.DataLoader(
        Photos(task.paths, task.clip.preprocess),
        batch_size=task.batch_size,
        num_workers=n_processes,
        persistent_workers=True,
        pin_memory=task.on_gpu,
    )

    def run():
        with torch.inference_mode():
            return to_array(
                unit(
                    task.clip.model.encode_image(
                        images.to(task.clip.device, task.clip.dtype, non_blocking=True)
                    )
                )
                for images in loader
            )

    return run


def sentence_transformers(task):
    """SentenceTransformer.encode, on random weights of the same architecture."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        task.hugging_face_folder, device=str(task.clip.device), local_files_only=True
    ).to(task.clip.dtype)

    def run():
        return model.encode(
            [Image.open(path) for path in task.paths],
            batch_size=task.batch_size,
            normalize_embeddings=True,
        )

    return run


def embetter(task):
    """The two steps of embetter, on the same weights.

    By hand: scikit-learn 1.9 takes a pipeline of them for one that is not fitted.
    """
    from embetter.multi import ClipEncoder
    from embetter.vision import ImageLoader

    loader = ImageLoader()
    encoder = ClipEncoder(task.hugging_face_folder, device=task.clip.device)
    return lambda: encoder.transform(loader.transform(task.paths))


def image_config(task):
    """Return open_clip's own description of the image tower, and of the embedding."""
    name = task.settings["model_name"]
    if name == "tiny":
        import json
        from importlib.resources import files

        text = files("skfewshot.clip").joinpath("tiny/open_clip_config.json")
        config = json.loads(text.read_text())["model_cfg"]
    else:
        config = open_clip.get_model_config(name)
    return {**config["vision_cfg"], "embed_dim": config["embed_dim"]}


def ours(task):
    """CLIPFeaturizer as it comes."""
    featurizer = task.featurizer()
    return lambda: featurizer.transform(task.paths)


def ours_without_threads(task):
    """CLIPFeaturizer that decodes in the caller's thread."""
    featurizer = task.featurizer(num_workers=0)
    return lambda: featurizer.transform(task.paths)


def ours_ready(task):
    """CLIPFeaturizer on a uint8 array of the model's size: nothing to decode."""
    featurizer, pixels = task.featurizer(), task.pixels
    return lambda: featurizer.transform(pixels)


def ours_tokens(task):
    """The same with ``output="tokens"``: an embedding of each patch besides."""
    featurizer, pixels = task.featurizer(output="tokens"), task.pixels
    return lambda: featurizer.transform(pixels)[:, 0]


def ours_cold_cache(task):
    """CLIPFeaturizer that stores every embedding in a cache that is empty at first."""
    return lambda: task.featurizer(cache=task.temporary_folder()).transform(task.paths)


def ours_warm_cache(task):
    """CLIPFeaturizer that finds every embedding in its cache."""
    featurizer = task.featurizer(cache=task.temporary_folder())
    featurizer.transform(task.paths)
    return lambda: featurizer.transform(task.paths)


def decoding(task, n_threads):
    """Decoding, resizing and cropping alone, as CLIPFeaturizer does it."""
    to_pixels = Preprocessor(task.clip.preprocess).to_pixels

    def decode(path):
        return to_pixels(read_image(path, 0))

    def run():
        with ThreadPoolExecutor(n_threads) as pool:
            for _ in pool.map(decode, task.paths):
                pass

    return run


def n_cores():
    return len(os.sched_getaffinity(0))
