r"""The documentation that the classifiers share, written once: the entries below.

text_features : "auto", None, array-like or dict, default="auto"
    The text prototypes :math:`T_0`; rows are scaled to unit norm.

    - A dict from class to vector, of which the classes in `y` are looked up, so
      that a cross-validation fold without one of them still works; or a data frame
      with classes as its index.
    - An array of shape (n_classes, n_features): rows follow the sorted classes.
    - ``"auto"``: class names encoded by `text_encoder` or, without one, by the
      model that embedded `X`, where `X` comes straight from a
      :class:`~skfewshot.CLIPFeaturizer` and so knows it.
    - ``None``, or ``"auto"`` where no encoder is known: no text; the class means
      of the support take the place of the texts.
class_names : sequence, dict or callable, default=None
    What to call the classes in a prompt: a dict from class to name, a function from
    class to name, or a sequence that follows the sorted classes. In place of a name
    may stand a sequence of descriptions, whole sentences that are encoded as they
    are, without `prompt_templates`, and averaged. By default string labels are their
    own names. Other labels, and strings without a word ("0", "class_7"), have none,
    and a warning says that class means are used.
    ``dict(enumerate(sorted(set(names))))`` serves strings and the numbers that some
    tools of scikit-learn make of them.
text_encoder : CLIPFeaturizer or callable, default=None
    Encodes the class names: an object with ``encode_classes(names)``, or a callable
    from a list of names to an array of shape (n_names, n_features). It must be of
    the model that embedded the images; a different one is refused where both are
    known.
prompt_templates : str, sequence of str or callable, default=None
    Templates with ``{}`` in place of the class name, over which text embeddings
    are averaged; ``"default"`` are ``skfewshot.clip.DEFAULT_PROMPT_TEMPLATES``.
    None leaves those of the encoder, and gives a callable `text_encoder` the bare
    names.
extra_classes : array-like of labels, default=None
    Classes to predict that `y` has no rows of. They need texts, as the others do;
    in an array of `text_features` the rows follow all classes, sorted.
logit_scale : "auto" or float, default="auto"
    Scale :math:`s > 0` of the cosines. ``"auto"`` is the encoder's own trained
    scale where the encoder is known, else 100. Without text it is found: 7 over
    :math:`V`, one less the mean cosine between two class means, and with more than
    one row a class a number near 7, by rows that are left out.
class_weight : dict, "balanced" or None, default=None
    Weights of the classes, multiplied with `sample_weight`.
unlabeled : label, default=None
    What stands in `y` for no label, such as -1 or ``""``; None, NaN and ``pandas.NA``
    always do. That `y` has none of it is no error.
store_left_out : bool, default=False
    Whether to keep what each row of `X` gets from the classifier without it, and the
    rows: `left_out_proba_` and the attributes after it, by which the functions of
    ``skfewshot.inspection`` know what to expect of new images. With CMM for the
    Gaussian solver.
device : None, str or torch.device, default=None
    Where to fit. None takes a GPU when there is one. Predictions are computed by NumPy.
random_state : int, RandomState instance or None, default=None
    Seeds the order of the mini-batches; pass an int for the same result each time.
classes_ : ndarray of shape (n_classes,)
    The sorted class labels.
class_count_ : ndarray of shape (n_classes,)
    Images of each class in the support, by their weights; views of a group are one.
text_features_ : ndarray of shape (n_classes, n_features)
    The starting prototypes :math:`T_0`, unit norm.
prototype_source_ : {"text_features", "text_encoder", "embedding", "image"}
    Where :math:`T_0` came from; ``"embedding"`` is the model that embedded `X`,
    ``"image"`` the class means of the support.
encoder_ : EncoderIdentity or None
    The model of the features, where it is known.
logit_scale_ : float
    The scale used.
loss_curve_ : list of float
    The loss before the first iteration and after each one.
n_iter_ : int
    Iterations done.
epoch_loss_curve_ : list of float
    The mean loss of each epoch, taken before the steps that it led to.
left_out_proba_ : ndarray of shape (n_samples, n_classes)
    Probabilities of each row of `X` by the classifier without that row and its
    copies; NaN for rows of weight zero and those without a label. This and the
    following only with ``store_left_out=True``.
left_out_novelty_ : ndarray of shape (n_samples,)
    What :func:`~skfewshot.inspection.novelty_score` says of those rows then.
support_codes_ : ndarray of int, shape (n_samples,)
    The classes of the rows, as indices of ``classes_``; -1 for rows that were not
    learned from.
support_shares_ : ndarray of shape (n_samples,)
    How many photographs each row stands for: its weight, shared with its copies.
support_features_ : ndarray of shape (n_samples, n_features)
    The rows, unit norm.
n_features_in_ : int
    Width of the embeddings.
feature_names_in_ : ndarray of shape (n_features,)
    Names of the columns of `X`, where all are strings.
"""

import re
from textwrap import dedent, indent
from typing import TypeVar

_Class = TypeVar("_Class", bound=type)


def _by_name() -> dict[str, str]:
    # Under python -OO there is no docstring.
    entries = re.split(r"^(?=\w+ : )", __doc__ or "", flags=re.MULTILINE)[1:]
    return {entry.split(" : ")[0]: entry.rstrip() for entry in entries}


_ENTRIES = _by_name()
_GROUPS = {
    "texts": ["text_features", "class_names", "text_encoder", "prompt_templates"],
    "fitted": [
        *("classes_", "class_count_", "text_features_", "prototype_source_"),
        *("encoder_", "logit_scale_", "n_features_in_", "feature_names_in_"),
    ],
    "left_out": [
        *("left_out_proba_", "left_out_novelty_", "support_codes_"),
        *("support_shares_", "support_features_"),
    ],
    "epochs": ["epoch_loss_curve_", "n_iter_"],
}


def shared_docs(cls: _Class) -> _Class:
    """Fill in each line ``{{name, name}}`` of a class docstring; a class decorator.

    A name is that of a parameter or attribute that classifiers share, ``texts`` for the
    four parameters of the text prototypes, or ``fitted`` for what every fit learns.
    """
    # Under python -OO there is no docstring.
    if cls.__doc__ is not None:
        cls.__doc__ = re.sub(
            r"^( *)\{\{(.+)\}\}$", _filled, cls.__doc__, flags=re.MULTILINE
        )
    return cls


def _filled(match: re.Match) -> str:
    names = []
    for name in match[2].split(", "):
        names += _GROUPS.get(name, [name])
    text = "\n".join(_ENTRIES[name] for name in names)
    text = text.replace("epoch_loss_curve_ :", "loss_curve_ :")
    return indent(dedent(text), match[1])
