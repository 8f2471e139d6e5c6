"""What ``python -m skfewshot`` shows, built from public parts only."""

import time

import numpy as np

from skfewshot import CLIPFeaturizer


def embed(featurizer: CLIPFeaturizer, images: np.ndarray, what: str) -> np.ndarray:
    """Embed every image once, and say how fast that went."""
    featurizer.fit(images[:1])
    start = time.perf_counter()
    X = featurizer.transform(images)
    seconds = time.perf_counter() - start
    print(
        f"Embedded {len(X)} {what} with {featurizer.model_name} on "
        f"{featurizer.device_}: {seconds:.1f} s, {len(X) / seconds:.0f} images/s"
    )
    return X
