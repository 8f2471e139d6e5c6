"""A pool of Ray actors: how many there are and what each is given."""

import warnings
from dataclasses import dataclass
from numbers import Integral, Real


def import_ray():
    """Return the module, or say what to install."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            "Ray, or a part of it that reads data, is missing; install it with "
            'pip install "skfewshot[ray]".'
        ) from error
    return ray


@dataclass(frozen=True)
class Pool:
    """The actors: how many, with what, and how many rows at a time."""

    batch_size: int
    concurrency: int | tuple
    num_cpus: float
    num_gpus: float
    ray_remote_args: dict | None

    def __post_init__(self):
        if not _is_count(self.batch_size):
            raise ValueError(
                f"batch_size must be an int of 1 or more; got {self.batch_size!r}."
            )
        ends = self._ends
        if len(ends) != 2 or not all(map(_is_count, ends)) or ends[0] > ends[1]:
            raise ValueError(
                "concurrency must be an int of 1 or more, or the least and the most of "
                f"the actors as two of them; got {self.concurrency!r}."
            )
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"{name} must be a number of 0 or more; got {value!r}."
                )

        if not isinstance(self.ray_remote_args, dict | None):
            raise TypeError(
                f"ray_remote_args must be a dict or None; got {self.ray_remote_args!r}."
            )

    @property
    def _ends(self):
        is_pair = isinstance(self.concurrency, tuple | list)
        return tuple(self.concurrency) if is_pair else (self.concurrency,) * 2

    @property
    def resources(self):
        """dict: arguments of ``ray.remote``."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}

    @property
    def strategy(self):
        """ray.data.ActorPoolStrategy: fixed, or from the least to the most."""
        from ray.data import ActorPoolStrategy

        least, most = self._ends
        return ActorPoolStrategy(min_size=least, max_size=most)

    def warn_if_full(self):
        """Warn if the actors take every CPU, for then reading waits for ever."""
        import ray

        there = ray.cluster_resources().get("CPU", 0)
        taken = self._ends[0] * self.num_cpus
        if there - taken < 1:
            warnings.warn(
                f"concurrency={self.concurrency} actors of num_cpus={self.num_cpus} "
                f"take {taken:g} of the cluster's {there:g} CPUs, and reading most "
                "datasets takes 1 more: the run will hang unless the cluster grows. "
                "Take fewer actors, or a smaller num_cpus such as 0.5.",
                UserWarning,
                stacklevel=4,
            )


def _is_count(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1
