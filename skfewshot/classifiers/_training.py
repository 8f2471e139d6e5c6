"""What every classifier that torch trains shares: the way to the solver and back."""

from abc import abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from skfewshot._rows import like, unit_rows
from skfewshot._torch import (
    fork_safe_threads,
    import_torch,
    is_tensor,
    resolve_device,
    to_numpy,
    to_tensor,
)
from skfewshot.classifiers._base import FewShotClassifier


@dataclass(frozen=True)
class SupportTensors:
    """A support on the device, its classes in an order that their names do not change.

    Attributes
    ----------
    features : tensor of shape (n_support, n_features)
        Unit rows.
    y : int64 tensor of shape (n_support,)
        Class indices: rows of `text`.
    weight : tensor of shape (n_support,)
        Sample weight times class weight; all positive.
    text : tensor of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    """

    features: Any
    y: Any
    weight: Any
    text: Any


def support_tensors(support, device):
    """Return a `Support` as `SupportTensors`, and where each of its classes went."""
    import torch

    support, rank = support.in_own_order()
    tensors = SupportTensors(
        features=to_tensor(support.features, device=device),
        y=to_tensor(support.y, device=device, dtype=torch.int64),
        weight=to_tensor(support.weight, device=device),
        text=to_tensor(support.text, device=device),
    )
    return tensors, rank


@contextmanager
def training():
    """Let torch compute as a solver needs it, wherever `fit` is called from.

    That may be inside a caller's inference mode, whose tensors could not be used
    outside it, or where no gradients are recorded.
    """
    torch = import_torch()
    with fork_safe_threads(), torch.inference_mode(False), torch.enable_grad():
        yield


class TrainedClassifier(FewShotClassifier):
    """Base of the classifiers that a solver trains, one iteration at a time.

    A subclass has the parameters ``max_iter`` and ``device`` and implements ``_solve``
    and ``_fitted_arrays``.
    """

    @abstractmethod
    def _solve(self, support, on_iteration):
        """Train on `support`, a `SupportTensors`, and return the solution.

        `on_iteration` is None, or to be called after each iteration as
        ``on_iteration(iteration, loss, state)`` where ``state()`` gives the solution so
        far; True asks to stop. The solution has ``loss_curve`` and ``n_iter``.
        """

    @abstractmethod
    def _fitted_arrays(self, solution, rank, dtype):
        """Return by name the arrays that predictions need, as NumPy.

        The class at index c of ``classes_`` is row ``rank[c]`` of the solution.
        """

    def _learn(self, support, on_iteration):
        """Run the solver, keep what predictions need, and return the solution."""
        device = self._device(support.features)
        dtype, reported = support.text.dtype, 0

        def report(iteration, loss, state):
            nonlocal reported
            if iteration <= reported:
                # A solver that ran out of memory does what it did again.
                return False
            reported = iteration

            def fitted():
                copy = {"n_iter_": iteration, "loss_curve_": [loss]}
                return copy | self._fitted_arrays(state(), rank, dtype)

            return on_iteration(fitted)

        with training():
            tensors, rank = support_tensors(support, device)
            solution = self._solve(tensors, None if on_iteration is None else report)
        self._keep(solution, rank, dtype)
        return solution

    def _device(self, rows):
        """Return where to fit on some rows: where a tensor is, unless told."""
        if self.device is None and is_tensor(rows):
            return rows.device
        return resolve_device(self.device)

    def _keep(self, solution, rank, dtype):
        """Set what predictions need, and how the training went."""
        for name, value in self._fitted_arrays(solution, rank, dtype).items():
            setattr(self, name, value)
        self.loss_curve_ = solution.loss_curve
        self.n_iter_ = solution.n_iter


def trained_arrays(solution, rank, dtype):
    """Return trained tensors by name as NumPy, class c at index c."""
    return {
        name: to_numpy(tensor, dtype=dtype)[rank]
        for name, tensor in solution.parameters.items()
    }


class TrainedPrototypes(TrainedClassifier):
    """Base of the classifiers that train a prototype of each class.

    The logits are ``s (cos(f, w_c) + b_c)``. A subclass implements ``_moved``, and its
    ``_solve`` trains ``intercept`` too where `_first_intercept` says so.
    """

    @abstractmethod
    def _moved(self, trained):
        """Return the prototypes w of any length, from the `trained_arrays`."""

    def _first_intercept(self, text):
        """Return what to add to the parameters: an intercept where there is no text."""
        if self.prototype_source_ != "image":
            return {}
        return {"intercept": text.new_zeros(len(text))}

    def _fitted_arrays(self, solution, rank, dtype):
        trained = trained_arrays(solution, rank, dtype)
        return {
            "text_features_": unit_rows(self._moved(trained)),
            "intercept_": trained.get("intercept", np.zeros(len(rank), dtype=dtype)),
        }

    def _logits(self, features):
        shift = float(self.logit_scale_) * like(self.intercept_, features)
        return self._scaled_cosines(features, self.text_features_) + shift
