"""What a method learns from, the one record on the way, and how a solver gets it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfewshot._copies import merge_near_copies
from skfewshot._rows import row_order
from skfewshot._spread import spread_of
from skfewshot._torch import import_torch, resolve_device, to_tensor, training

#: Reports fitted attributes, made when asked for; True asks to stop.
Report = Callable[[Callable[[], dict[str, Any]]], bool]


@dataclass(frozen=True)
class Support:
    """The rows that a method learns from, checked, merged and in order.

    Its arrays are NumPy; those of `on_device` are tensors.

    Attributes
    ----------
    features : array of shape (n_support, n_features)
        Unit rows, in the dtype of X.
    y : array of int, shape (n_support,)
        Class indices in ``[0, n_classes)``.
    weight : array of shape (n_support,)
        Sample weight times class weight; all positive.
    copy : array of shape (n_support,)
        The weight that one copy of a row has: that of its class. Near copies, once
        merged, are one copy of all their weight.
    text : array of shape (n_classes, n_features)
        Unit-norm starting prototypes.
    unlabelled : array of shape (n_unlabelled, n_features)
        Unit rows without a label, in the dtype of X.
    unlabelled_weight : array of shape (n_unlabelled,)
        Sample weight; all positive.
    rows : ndarray of int, shape (n_samples,)
        Which row of the support each row of X is in, with its copies or views; -1 is
        none, for rows of weight zero and those without a label.
    seen : ndarray of int, shape (n_classes,)
        Where the classes are in ``classes_``, which may have more than have rows.
    text_seen : bool
        Whether `text` are class means of the support, which say nothing more.
    logit_scale : float
    """

    features: Any
    y: Any
    weight: Any
    copy: Any
    text: Any
    unlabelled: Any
    unlabelled_weight: Any
    rows: NDArray
    seen: NDArray
    text_seen: bool
    logit_scale: float

    def in_own_order(self) -> tuple["Support", NDArray]:
        """Put the classes in an order that their names do not change, as rows have one.

        Returns
        -------
        support : Support
            With classes reordered.
        rank : ndarray of shape (n_classes,)
            Where each class went.
        """
        order = row_order(self.text)
        rank = np.argsort(order)
        y, text, seen = rank[self.y], self.text[order], self.seen[order]
        return replace(self, y=y, text=text, seen=seen), rank

    def image_margin(self) -> float:
        """Return how far scaled cosines set a class mean above the others."""
        return self.logit_scale * spread_of(self.text)

    def without_near_copies(self) -> "Support":
        """Return the support with one row a class in the place of near copies."""
        merged = merge_near_copies(self.features, self.y, self.weight)
        features, y, weight, index = merged
        of_class = np.zeros(len(self.text), self.copy.dtype)
        of_class[self.y] = self.copy
        is_merged = np.bincount(index) > 1
        copy = np.where(is_merged, np.maximum(of_class[y], weight), of_class[y])
        rows = np.where(self.rows >= 0, index[self.rows], -1)
        return replace(
            self, features=features, y=y, weight=weight, copy=copy, rows=rows
        )

    def of_rows(self, rows: Any) -> "Support":
        """Return the support with some of its labelled rows; all classes stay."""
        return replace(
            self,
            features=self.features[rows],
            y=self.y[rows],
            weight=self.weight[rows],
            copy=self.copy[rows],
        )

    def of_classes_with_rows(self) -> "Support":
        """Return the support without classes all of whose rows have weight zero."""
        kept, y = np.unique(self.y, return_inverse=True)
        return replace(self, y=y, text=self.text[kept], seen=self.seen[kept])

    def on_device(self, device: Any) -> "Support":
        """Return the support with tensors in the place of arrays.

        `device` is None, a str or a torch.device, as the estimators have it.
        """
        torch = import_torch()
        to = partial(to_tensor, device=resolve_device(device))
        return replace(
            self,
            features=to(self.features),
            y=to(self.y, dtype=torch.int64),
            weight=to(self.weight),
            copy=to(self.copy),
            text=to(self.text),
            unlabelled=to(self.unlabelled),
            unlabelled_weight=to(self.unlabelled_weight),
        )


def train(
    support: Support,
    device: Any,
    solve: Callable[..., Any],
    arrays: Callable[[Any, NDArray], dict[str, Any]],
    report: Report | None,
) -> dict[str, Any]:
    """Solve on a device, and return what that fits, by attribute.

    Parameters
    ----------
    support : Support
    device : None, str or torch.device
    solve : callable
        ``solve(support, on_iteration)`` with the support in tensors gives a solution
        with a ``loss_curve`` and ``n_iter``. After each iteration it is to call
        ``on_iteration(iteration, loss, state)``, unless that is None; ``state()`` gives
        the solution so far, and True asks to stop.
    arrays : callable
        ``arrays(solution, rank)`` gives attributes by name; the class at index c of the
        support is row ``rank[c]`` of the solution.
    report : callable or None
    """

    def on_iteration(iteration: int, loss: float, state: Callable[[], Any]) -> bool:
        if report is None:
            return False
        return report(
            lambda: {
                "n_iter_": iteration,
                "loss_curve_": [loss],
                **arrays(state(), rank),
            }
        )

    with training():
        ordered, rank = support.in_own_order()
        tensors = ordered.on_device(device)
        solution = solve(tensors, None if report is None else on_iteration)
    fitted = arrays(solution, rank)
    return fitted | {"loss_curve_": solution.loss_curve, "n_iter_": solution.n_iter}
