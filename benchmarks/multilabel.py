"""Multi-label few-shot learning: peers, ours, and what each step of ours is worth.

    python benchmarks/multilabel.py --data ../shared/data/features
    python benchmarks/multilabel.py --data ../shared/data/features --unlabelled 500

The second compares, for ours with text and without, supports whose labels are all known
with those beside so many unlabelled images, and both with half of the entries unknown.
Defaults were chosen on `--split validation`: other ImageNet classes and kinds.
"""

import argparse
import json
import platform
import resource
import time
import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import sklearn
import torch
from label_peers import fit_peers
from multilabel_data import mosaics, scenes, streets

from skfewshot import MultiLabelPrototypeClassifier, MultiLabelPrototypePrior
from skfewshot.metrics import mean_average_precision
from skfewshot.model_selection import sample_support

SHOTS = (1, 5)
ALL_STEPS = ("gate", "convolution", "attention")
PRIORS = {
    "maps": {"interaction": ()},
    "+ gate": {"interaction": ("gate",)},
    "+ convolution": {"interaction": ("convolution",)},
    "+ attention": {"interaction": ("attention",)},
    "+ all three": {"interaction": ALL_STEPS},
    "+ all three, no label noise": {"interaction": ALL_STEPS, "label_noise": 0.0},
}
#: The published recipe, in episodes of one image a label and of five; the last by word
#: vectors that know nothing of images. Image features are 128 and 512 wide here: there
#: is nothing to gain by mapping them to more.
PAPER = {"n_components": None, "eval_every": 100}
PUBLISHED = {
    "the paper's": {},
    "the paper's, 5 shots": {"shots": (5, 5)},
    "the paper's, word vectors": {},
}
VARIANTS = {
    "": {},
    "selection lcm_paper": {"selection": "lcm_paper"},
    "selection text": {"selection": "text"},
    "selection none": {"selection": "none"},
    "query_scoring local": {"query_scoring": "local"},
    "query_scoring global": {"query_scoring": "global"},
    "query_scoring both": {"query_scoring": "both"},
}
WITHOUT_PRIOR = {
    "pooling agreement": {"pooling": "agreement"},
    "text alone": {"text_weight": 1.0},
    "images alone": {"text_weight": 0.0},
    "no text": {"label_features": None},
    "no text, selection none": {"label_features": None, "selection": "none"},
    "the paper's steps 1 and 2": {
        "selection": "lcm_paper",
        "query_scoring": "global",
        "pooling": "agreement",
    },
}


def train_priors(task, names, seed):
    """Return {name: fitted prior} and print how training went."""
    priors = {}
    for name in names:
        start = time.perf_counter()
        X, Y, text = task.base
        if name in PUBLISHED:
            options = {**PAPER, **PUBLISHED[name]}
            prior = MultiLabelPrototypePrior.published(**options, random_state=seed)
            text = task.words[1] if "word" in name else text
        else:
            Y, text = Y[:, : task.n_alike], text[: task.n_alike]
            prior = MultiLabelPrototypePrior(random_state=seed, **PRIORS[name])
        priors[name] = prior.fit(X, Y, text)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        scores = [f"{100 * score:.1f}" for score in prior.validation_scores_]
        print(
            f"prior {name}, seed {seed}: {time.perf_counter() - start:.0f} s, best "
            f"after {prior.best_episode_} episodes; mAP on labels kept aside {scores}; "
            "loss of the first and last ten episodes "
            f"{np.mean(prior.loss_curve_[:10]):.3f}, "
            f"{np.mean(prior.loss_curve_[-10:]):.3f}; share of the text at 1 and 5 "
            f"shots {prior.text_shares(np.array([1.0, 5.0])).round(2)}; peak memory "
            f"so far {memory:.1f} GB",
            flush=True,
        )
    return priors


def our_models(task, priors):
    """Return {name: classifier}."""
    n_tokens = task.pool.shape[1]
    variants = {**VARIANTS, **WITHOUT_PRIOR} if n_tokens > 1 else {"": {}}
    models = {}
    for name, options in variants.items():
        options = {"label_features": task.text, **options}
        models[f"ours {name}".strip()] = MultiLabelPrototypeClassifier(**options)
    for name, prior in priors.items():
        text = task.words[0] if "word" in name else task.text
        models[f"ours, prior {name}"] = MultiLabelPrototypeClassifier(text, prior=prior)
    return models


def run(task, shots_tried, n_seeds, prior_names, n_priors):
    """Return {method: {shots: [mAP in %, one a seed]}} and the labels left out."""
    prior_names = prior_names if task.base is not None else ()
    if task.words is None:
        prior_names = [name for name in prior_names if "word" not in name]
    many_models = [
        our_models(task, train_priors(task, prior_names, seed))
        for seed in range(n_priors)
    ]
    results, seconds = {}, {}
    for shots in shots_tried:
        for seed in range(n_seeds):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "sample_support|.*positive")
                rows = sample_support(task.pool_labels, shots, random_state=seed)
            support = task.pool[rows], task.pool_labels[rows]
            found = fit_peers(*support, task.text)(task.query)
            for name, model in many_models[seed % n_priors].items():
                start = time.perf_counter()
                model.fit(*support)
                fitted = time.perf_counter()
                found[name] = model.decision_function(task.query)
                times = fitted - start, time.perf_counter() - fitted
                seconds.setdefault(name, {}).setdefault(shots, []).append(times)
            for name, scores in found.items():
                score, left_out = mean_average_precision(
                    task.query_labels, scores, return_left_out=True
                )
                results.setdefault(name, {}).setdefault(shots, []).append(100 * score)
    print(
        f"{task.name}: {len(task.query)} queries, {task.query_labels.shape[1]} labels, "
        f"{len(rows)} images in the last support; left out of mAP for want of "
        f"positives: {left_out.tolist()}"
    )
    return results, seconds


def run_unlabelled(task, shots_tried, n_seeds, n_unlabelled):
    """Return what :func:`run` does, of ours with unknown entries and without."""
    results, seconds, sharpened = {}, {}, Counter()
    texts = (
        {"no text": None} if task.text is None else {"text": task.text, "no text": None}
    )
    for shots, seed in product(shots_tried, range(n_seeds)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "sample_support|.*positive")
            rows = sample_support(task.pool_labels, shots, random_state=seed)
        X, Y = task.pool[rows], task.pool_labels[rows].astype(float)
        more = task.unlabelled(rows, n_unlabelled)
        hidden = np.random.default_rng(seed).random(Y.shape) < 0.5
        for (text, vectors), is_half, has_more in product(
            texts.items(), (False, True), (False, True)
        ):
            known = np.where(hidden, np.nan, Y) if is_half else Y
            unknown = np.full((len(more) * has_more, Y.shape[1]), np.nan)
            given = (
                np.concatenate([X, more]) if has_more else X,
                np.concatenate([known, unknown]),
            )
            name = f"{text}, {'half of the entries' if is_half else 'all entries'}"
            name += f", {len(more)} unlabelled images" * has_more
            model = MultiLabelPrototypeClassifier(vectors)
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The label vectors tell")
                model.fit(*given)
            fitted = time.perf_counter()
            scores = model.decision_function(task.query)
            times = fitted - start, time.perf_counter() - fitted
            value = 100 * mean_average_precision(task.query_labels, scores)
            seconds.setdefault(name, {}).setdefault(shots, []).append(times)
            results.setdefault(name, {}).setdefault(shots, []).append(value)
            sharpened[name, shots, model.sharpened_] += 1
    print(f"{task.name}, whether unknown entries had a part:", *sharpened.items())
    return results, seconds


def table(results, seconds):
    """Return the Markdown table."""
    tried = list(next(iter(results.values())))
    heads = "".join(f" {shots} shot{'s' * (shots > 1)} |" for shots in tried)
    lines = [f"| method |{heads} fit, predict |", "|---|" + "---|" * (len(tried) + 1)]
    for name, cells in results.items():
        line = f"| {name} |"
        for shots in tried:
            line += f" {np.mean(cells[shots]):.1f} ± {np.std(cells[shots]):.1f} |"
        times = ""
        if name in seconds:
            fit, predict = np.median(seconds[name][tried[-1]], axis=0)
            times = f"{fit:.2f}, {predict:.2f} s"
        lines.append(f"{line} {times} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/features")
    parser.add_argument("--tasks", nargs="+", default=["scenes", "mosaics", "streets"])
    parser.add_argument("--split", choices=["validation", "novel"], default="novel")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--priors", nargs="*", default=[*PRIORS, *PUBLISHED])
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument(
        "--distinct",
        action="store_true",
        help="mosaics whose supports show no photograph of a label twice",
    )
    parser.add_argument("--prior-seeds", type=int, default=3)
    parser.add_argument(
        "--base", type=int, default=20_000, help="base scenes; 0 trains no priors"
    )
    parser.add_argument("--unlabelled", type=int, help="how many beside a support")
    parser.add_argument("--cache-dir", help="where embedded base scenes are kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n_base = 0 if arguments.unlabelled else arguments.base
    makers = {
        "scenes": lambda: scenes(arguments.split, n_base, arguments.cache_dir),
        "mosaics": lambda: mosaics(arguments.split, arguments.data, arguments.distinct),
        "streets": lambda: streets(arguments.data, arguments.split),
    }
    report = {
        "machine": platform.processor() or platform.machine(),
        "versions": {"sklearn": sklearn.__version__, "torch": torch.__version__},
        "results": {},
    }
    for name in arguments.tasks:
        task = makers[name]()
        tried = task, arguments.shots, arguments.seeds
        if arguments.unlabelled:
            results, seconds = run_unlabelled(*tried, arguments.unlabelled)
        else:
            priors = arguments.priors, arguments.prior_seeds
            results, seconds = run(*tried, *priors)
        print(table(results, seconds), "\n", flush=True)
        report["results"][task.name] = results
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
