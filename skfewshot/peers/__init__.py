"""Peers of cross-modal mapping, behind the same interface: a method a page."""

from skfewshot.peers._clap import CLAPClassifier
from skfewshot.peers._gaussian_discriminant import GaussianDiscriminantClassifier
from skfewshot.peers._lp_plus_plus import LPPlusPlusClassifier
from skfewshot.peers._proker import ProKeRClassifier
from skfewshot.peers._taskres import TaskResClassifier
from skfewshot.peers._tip_adapter import TipAdapterClassifier
from skfewshot.peers._zero_shot import ZeroShotClassifier

__all__ = [
    "CLAPClassifier",
    "GaussianDiscriminantClassifier",
    "LPPlusPlusClassifier",
    "ProKeRClassifier",
    "TaskResClassifier",
    "TipAdapterClassifier",
    "ZeroShotClassifier",
]
