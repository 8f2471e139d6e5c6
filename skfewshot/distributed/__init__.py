"""Images by the million: embedded and classified by the actors of a Ray cluster.

Needs the extra ``pip install "skfewshot[ray]"``; only :func:`read_embeddings` does with
pyarrow alone.
"""

from skfewshot.distributed._folder import read_embeddings
from skfewshot.distributed._runs import RunSummary, embed_dataset, predict_dataset

__all__ = ["RunSummary", "embed_dataset", "predict_dataset", "read_embeddings"]
