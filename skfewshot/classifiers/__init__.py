"""Few-shot classifiers on frozen image embeddings, one file a method."""

from skfewshot.classifiers.clap import CLAPClassifier
from skfewshot.classifiers.cmm import CMMClassifier
from skfewshot.classifiers.cmm_cv import CMMClassifierCV
from skfewshot.classifiers.gaussian_discriminant import GaussianDiscriminantClassifier
from skfewshot.classifiers.lp_plus_plus import LPPlusPlusClassifier
from skfewshot.classifiers.proker import ProKeRClassifier
from skfewshot.classifiers.taskres import TaskResClassifier
from skfewshot.classifiers.tip_adapter import TipAdapterClassifier
from skfewshot.classifiers.zero_shot import ZeroShotClassifier

__all__ = [
    "CLAPClassifier",
    "CMMClassifier",
    "CMMClassifierCV",
    "GaussianDiscriminantClassifier",
    "LPPlusPlusClassifier",
    "ProKeRClassifier",
    "TaskResClassifier",
    "TipAdapterClassifier",
    "ZeroShotClassifier",
]
