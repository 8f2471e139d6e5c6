"""Names that are codes: as texts, without texts, and with the mean text of the others.

    python benchmarks/codes.py --data ../shared/data/features

Codes are random directions as far from the mean text as texts are (``trouble.py``). All
names are codes, or 30 % of them; then also the mean of the other texts stands in for
each, as ``skfewshot`` has it. Supports are single crops, and the rows that are scored
those of ``val`` that are in no support: no table reports them. Mean over textures, pets
and things, and over seeds.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from report import markdown_table
from trouble import clean_task, codes

import skfewshot

DATA = ("dtd47", "pets25", "caltech69")
METHODS = (
    *("CMMClassifier", "ProKeRClassifier", "GaussianDiscriminantClassifier"),
    *("TipAdapterClassifier", "ZeroShotClassifier"),
)
SHARE = 0.3


def main():
    arguments = _parse()
    found = defaultdict(list)
    for name in DATA:
        for shots in arguments.shots:
            for seed in range(arguments.seeds):
                task = clean_task(arguments.data, name, "val", shots, seed, "tuning")
                for key, accuracy in scores(*task, seed):
                    found[key, shots].append(100 * accuracy)
    keys = list(dict.fromkeys(key for key, _ in found))
    rows = [
        [*key, *(f"{np.mean(found[key, shots]):.1f}" for shots in arguments.shots)]
        for key in keys
    ]
    print(markdown_table(["method", "texts", *map(str, arguments.shots)], rows))


def scores(X, y, query, target, text, seed):
    """Yield the accuracy of each method with each kind of texts."""
    rng = np.random.default_rng(seed)
    wrong = codes(text, rng)
    chosen = rng.permutation(len(text))[: round(SHARE * len(text))]
    some, mean = text.copy(), text.copy()
    some[chosen] = wrong[chosen]
    others = np.delete(text, chosen, axis=0).mean(axis=0)
    mean[chosen] = others / np.linalg.norm(others)
    kinds = {
        "names": text,
        "codes": wrong,
        "none": None,
        "30 % codes": some,
        "30 % mean of the others": mean,
    }
    for method in METHODS:
        for kind, texts in kinds.items():
            model = getattr(skfewshot, method)(texts).fit(X, y)
            yield (method, kind), np.mean(model.predict(query) == target)


def _parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/features")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
