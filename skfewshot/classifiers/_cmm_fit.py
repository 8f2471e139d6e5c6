"""How CMM is fitted: what goes to its two solvers, and what comes back."""

from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skfewshot._rows import merge_near_copies, unit_rows
from skfewshot._sklearn import warn_user
from skfewshot._torch import in_chunks, to_numpy
from skfewshot.classifiers._training import TrainedClassifier

# Cosine of two rows of a class that are taken for one photograph.
NEAR_COPY = 0.97
# What a search chooses.
SEARCHED = ("alpha", "map_penalty", "margin", "text_penalty")
# The same defaults serve both solvers, in these units.
_GRADIENT_MAP_PENALTY, _GRADIENT_TEXT_PENALTY, _GRADIENT_TOL = 0.1, 3.0, 0.01


class CMMFit(TrainedClassifier):
    """Fits `CMMClassifier`, of which it has the parameters."""

    def _choice(self):
        """Return the parameters that `CMMClassifierCV` searches, by name."""
        return {name: getattr(self, name) for name in SEARCHED}

    def _ready(self, support):
        """Return what to solve: `support` without the near copies of its rows."""
        self._seen = support.seen
        if self.solver == "gradient":
            return support
        rows = merge_near_copies(
            support.features, support.y, support.weight, cosine=NEAR_COPY
        )
        return replace(
            support, **dict(zip(("features", "y", "weight"), rows, strict=True))
        )

    def _learn(self, support, on_iteration):
        solution = super()._learn(self._ready(support), on_iteration)
        self._n_features_out = self.map_.shape[1]
        if not solution.converged and self.max_iter:
            warn_user(
                f"CMM stopped after max_iter={self.max_iter} iterations before the "
                "loss settled; raise max_iter or tol.",
                ConvergenceWarning,
            )
        return solution

    def _solve(self, support, on_iteration):
        if self.solver == "gradient":
            return self._solve_by_gradient(support, on_iteration)

        def on_curves(curves, state):
            (curve,) = curves
            return on_iteration(len(curve) - 1, curve[-1], lambda: state()[0][0])

        choice = self._choice()
        ((solution,),) = self._solve_together(
            [(support, choice["map_penalty"], choice["text_penalty"])],
            [(choice["alpha"], choice["margin"])],
            callback=None if on_iteration is None else on_curves,
        )
        return solution

    def _solve_together(self, shots, scales, callback=None):
        """Solve (support, map_penalty, text_penalty)s, each with (alpha, margin)s."""
        from skfewshot.cross_modal import Shot, solve_cross_modal

        shots = [
            Shot(**vars(support), map_penalty=float(m), text_penalty=float(t))
            for support, m, t in shots
        ]
        n_problems = len(shots) * len(scales)
        return in_chunks(
            lambda chunk_size: solve_cross_modal(
                shots,
                alpha=[float("nan") if a == "auto" else float(a) for a, _ in scales],
                margin=[float(margin) for _, margin in scales],
                temperature=(
                    None if self.temperature == "auto" else float(self.temperature)
                ),
                tol=self.tol,
                # A search throws its models away, and no class can be added to them.
                newcomers=n_problems == 1 or self.extra_classes is not None,
                callback=callback,
                chunk_size=chunk_size,
                **self._settings(),
            ),
            max(self._chunk_size(shot, n_problems) for shot in shots),
        )

    def _settings(self):
        """Return by name what both solvers are to be told."""
        return {
            "triplet_weight": float(self.triplet_weight),
            "logit_scale": self.logit_scale_,
            "learning_rate": float(self.learning_rate),
            "max_iter": self.max_iter,
            "text_from_support": self.prototype_source_ == "image",
        }

    def _chunk_size(self, support, n_problems=1):
        """Return how many rows to handle at a time, unless memory runs out."""
        size = self.chunk_size
        if size is None:
            # A block of logits of 4 MB stays in a processor's cache; a GPU wants more.
            block = 2**26 if support.text.is_cuda else 2**20
            size = max(64, block // (n_problems * len(support.text)))
        return min(size, len(support.features))

    def _solve_by_gradient(self, support, on_iteration):
        from skfewshot.solvers import solve_cmm

        return in_chunks(
            lambda chunk_size: solve_cmm(
                support.features,
                support.y,
                support.text,
                support.weight,
                alpha=1.0 if self.alpha == "auto" else float(self.alpha),
                temperature=(
                    1.0 if self.temperature == "auto" else float(self.temperature)
                ),
                margin=float(self.margin),
                map_penalty=_GRADIENT_MAP_PENALTY * self.map_penalty,
                text_penalty=_GRADIENT_TEXT_PENALTY * self.text_penalty,
                tol=_GRADIENT_TOL * self.tol,
                callback=on_iteration,
                chunk_size=chunk_size,
                **self._settings(),
            ),
            self._chunk_size(support),
        )

    def _fitted_arrays(self, solution, rank, dtype):
        fitted = {
            "map_": to_numpy(solution.map, dtype=dtype),
            "map_intercept_": to_numpy(solution.intercept, dtype=dtype),
            "text_map_": to_numpy(solution.text_map, dtype=dtype),
            "text_map_intercept_": to_numpy(solution.text_intercept, dtype=dtype),
        }
        if self.solver == "gradient":
            # Texts stay where they are: what the map does to them is undone.
            inverse = np.linalg.inv(fitted["map_"].astype(np.float64))
            fitted["text_map_"] = inverse.astype(dtype)
        # Classes without rows have the prototypes that their texts make them.
        prototypes = np.empty_like(self.zero_shot_features_)
        unseen = np.ones(len(prototypes), bool)
        unseen[self._seen] = False
        if unseen.any():
            texts = self.zero_shot_features_[unseen]
            prototypes[unseen] = prototypes_of(texts, fitted)
        prototypes[self._seen] = unit_rows(to_numpy(solution.text, dtype=dtype)[rank])
        level = solution.newcomer_intercept
        intercept = np.full(len(prototypes), level, dtype)
        intercept[self._seen] = to_numpy(solution.class_intercept, dtype=dtype)[rank]
        return fitted | {
            "alpha_": float(solution.alpha),
            "temperature_": float(solution.temperature),
            "text_features_": prototypes,
            "intercept_": intercept,
            "newcomer_intercept_": float(level),
        }


def prototypes_of(texts, fitted):
    """Return the prototypes of classes without rows, from their texts."""
    means = texts @ fitted["text_map_"] + fitted["text_map_intercept_"]
    return unit_rows(means @ fitted["map_"])
