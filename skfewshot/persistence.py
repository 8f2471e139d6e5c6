"""What to know when a saved estimator is loaded: trusted types, and versions."""

from skfewshot._sklearn import VersionWarning

__all__ = ["TRUSTED_TYPES", "VersionWarning"]

#: Names of all types of this package that a saved estimator may hold, for
#: ``skops.io.load(file, trusted=TRUSTED_TYPES)``.
TRUSTED_TYPES = (
    "skfewshot.classifiers.clap.CLAPClassifier",
    "skfewshot.classifiers.cmm.CMMClassifier",
    "skfewshot.classifiers.cmm_cv.CMMClassifierCV",
    "skfewshot.classifiers.gaussian_discriminant.GaussianDiscriminantClassifier",
    "skfewshot.classifiers.lp_plus_plus.LPPlusPlusClassifier",
    "skfewshot.classifiers.proker.ProKeRClassifier",
    "skfewshot.classifiers.taskres.TaskResClassifier",
    "skfewshot.classifiers.tip_adapter.TipAdapterClassifier",
    "skfewshot.classifiers.zero_shot.ZeroShotClassifier",
    "skfewshot.clip.embedding.EmbeddingArray",
    "skfewshot.clip.embedding.EncoderIdentity",
    "skfewshot.clip.featurizer.CLIPFeaturizer",
    "skfewshot.multilabel.classifier.MultiLabelPrototypeClassifier",
    "skfewshot.multilabel.prior.MultiLabelPrototypePrior",
)
