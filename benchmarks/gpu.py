"""Speed on a GPU: fits of CMM and its peers, predictions, embedding.

    python benchmarks/gpu.py

Actions take turns in one process, the device is waited for before and after each, and a
figure is the median over rounds. Features are drawn at random, in two cones on a sphere
as CLIP's are; the weights of the image encoder are random too. Nothing is downloaded.
``--device cpu --classes 20 --width 64 --queries 2000 --images 16`` tries it out.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from methods import OURS, TRAINED
from methods import make as make_method
from report import PACKAGES, machine, markdown_table, versions
from sklearn.exceptions import ConvergenceWarning
from speed_measures import alternate, cmm_products

from skfewshot import CLIPFeaturizer, CMMClassifier

PARTS = ("fit", "predict", "embed")


def main():
    arguments = _parse()
    # What a fit that stops early costs is measured all the same.
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(describe(arguments.device))
    for part in arguments.parts:
        print(f"\n{globals()[f'time_{part}'](arguments)}", flush=True)


def describe(device):
    """Return one line on the machine and the versions."""
    on, found = machine(), versions()
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    packages = ", ".join(f"{package} {found[package]}" for package in PACKAGES)
    commit = (found["commit"] or "unknown")[:10]
    changed = " with uncommitted changes" if found["uncommitted"] else ""
    return (
        f"{name}; {on['cpu']}, {on['cores']} cores, {on['torch_threads']} torch "
        f"threads; Python {found['python']}, {packages}, commit {commit}{changed}"
    )


def make_features(n_classes, shots, width, seed=0):
    """Draw unit rows, their classes, and texts."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(n_classes, width))
    image_cone, text_cone = 2 * rng.normal(size=(2, width))
    y = np.repeat(np.arange(n_classes), shots)
    X = image_cone + concepts[y] + 1.5 * rng.normal(size=(len(y), width))
    text = text_cone + concepts + rng.normal(size=concepts.shape)
    X, text = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (X, text))
    return X.astype(np.float32), y, text.astype(np.float32)


def measure(arguments, actions):
    """Return {name: seconds}, the medians, each action waiting for the device."""

    def wait():
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    def waiting(action):
        def run():
            wait()
            answer = action()
            wait()
            return answer

        return run

    actions = {name: waiting(action) for name, action in actions.items()}
    # The first one waits for kernels, handles and threads.
    alternate(actions, 1)
    seconds, _ = alternate(actions, arguments.rounds, arguments.max_seconds)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def time_fit(arguments):
    """Fits of CMM and of the peers by the device, and of CMM on the CPU."""
    X, y, text = make_features(arguments.classes, arguments.shots, arguments.width)
    device = arguments.device
    rows = torch.from_numpy(X).to(device)

    def fit(method, data, device):
        model = make_method(method, text).set_params(device=device)
        return lambda: model.fit(data, y)

    actions = {
        OURS: fit(OURS, X, device),
        f"{OURS}, rows on the device": fit(OURS, rows, device),
        f"{OURS}, on the CPU": fit(OURS, X, "cpu"),
        **{method: fit(method, X, device) for method in TRAINED},
    }
    size = f"{arguments.classes} classes, {arguments.shots} shots, {arguments.width}"
    return table(f"Fit ({size} wide)", measure(arguments, actions), "ms", 1e3)


def time_predict(arguments):
    """Predictions of CMM, which NumPy makes, against the matrix products in them."""
    X, y, text = make_features(arguments.classes, 2, arguments.width)
    # A prediction takes as long whatever the prototypes are.
    model = CMMClassifier(text, device=arguments.device).fit(X, y)
    shots = -(-arguments.queries // arguments.classes)
    queries = make_features(arguments.classes, shots, arguments.width, seed=1)[0]
    queries = queries[: arguments.queries]
    rows = torch.from_numpy(queries).to(arguments.device)
    products = cmm_products(model, queries)
    actions = {
        "products": lambda: [left @ right for left, right in products],
        "predict": lambda: model.predict(queries),
        "predict_proba": lambda: model.predict_proba(queries),
        "predict, rows on the device": lambda: model.predict(rows),
    }
    size = f"{len(queries)} rows, {arguments.classes} classes, {arguments.width}"
    return table(f"Predictions ({size} wide)", measure(arguments, actions), "ms", 1e3)


def time_embed(arguments):
    """The featurizer on images in memory against the bare model on ready tensors."""
    size = arguments.batch_size
    with tempfile.TemporaryDirectory() as folder:
        featurizer = CLIPFeaturizer(
            write_model(Path(folder), arguments.model),
            batch_size=size,
            device=arguments.device,
            precision=arguments.precision,
        )
        clip = featurizer.load()
        shape = (arguments.images, *clip.input_size, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        ready = [
            torch.from_numpy(images[start : start + size])
            .to(clip.device)
            .permute(0, 3, 1, 2)
            .to(clip.dtype)
            .div_(255)
            .contiguous()
            for start in range(0, len(images), size)
        ]

        @torch.inference_mode()
        def bare():
            return [clip.model.encode_image(batch) for batch in ready]

        seconds = measure(
            arguments,
            {
                "bare model, ready tensors": bare,
                "CLIPFeaturizer, uint8 array": lambda: featurizer.transform(images),
            },
        )
    rates = {name: len(images) / taken for name, taken in seconds.items()}
    title = f"Embedding ({arguments.model}, {clip.dtype}, batches of {size})"
    return table(title, rates, "images/s")


def write_model(folder, name):
    """Write a model with random weights and return what the featurizer calls it."""
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Without a warning that the weights are random.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(name, pretrained=None)
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def table(title, figures, unit, factor=1.0):
    """Return a table of figures and their ratio to the first one."""
    first = next(iter(figures.values()))
    rows = [
        [name, f"{factor * figure:.4g}", f"{figure / first:.3f}"]
        for name, figure in figures.items()
    ]
    return markdown_table([title, unit, "to the first"], rows)


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=default)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=30.0,
        help="an action whose first run took longer is not run again",
    )
    return parser.parse_args()


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - start:.0f} s in all")
