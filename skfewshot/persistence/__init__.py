"""Fitted models in files: saving, loading, trusted types, versions, and the hub."""

from skfewshot._sklearn import VersionWarning
from skfewshot.persistence._hub import push_to_hub
from skfewshot.persistence._saving import TRUSTED_TYPES, load, save

__all__ = ["TRUSTED_TYPES", "VersionWarning", "load", "push_to_hub", "save"]
