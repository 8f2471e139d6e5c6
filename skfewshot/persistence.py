"""What to know when a saved estimator is loaded: trusted types, and versions."""

from skfewshot._sklearn import VersionWarning

__all__ = ["TRUSTED_TYPES", "VersionWarning"]

#: Names of all types of this package that a saved estimator may hold, for
#: ``skops.io.load(file, trusted=TRUSTED_TYPES)``.
TRUSTED_TYPES = (
    "skfewshot.peers._clap.CLAPClassifier",
    "skfewshot.cmm._classifier.CMMClassifier",
    "skfewshot.peers._gaussian_discriminant.GaussianDiscriminantClassifier",
    "skfewshot.peers._lp_plus_plus.LPPlusPlusClassifier",
    "skfewshot.peers._proker.ProKeRClassifier",
    "skfewshot.peers._taskres.TaskResClassifier",
    "skfewshot.peers._tip_adapter.TipAdapterClassifier",
    "skfewshot.peers._zero_shot.ZeroShotClassifier",
    "skfewshot.clip._embedding.EmbeddingArray",
    "skfewshot.clip._embedding.EncoderIdentity",
    "skfewshot.clip._featurizer.CLIPFeaturizer",
    "skfewshot.inspection._rejecting.RejectingClassifier",
    "skfewshot.multilabel._classifier.MultiLabelPrototypeClassifier",
    "skfewshot.multilabel._prior.MultiLabelPrototypePrior",
)
