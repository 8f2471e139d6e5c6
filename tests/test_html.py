"""The HTML representation links each estimator to its page in the documentation."""

import pytest
from sklearn.pipeline import make_pipeline

import skfewshot
from skfewshot import CLIPFeaturizer, CMMClassifier

NAMES = [name for name in skfewshot.__all__ if name[0].isupper()]
PAGE = "https://skfewshot.readthedocs.io/en/stable/generated/skfewshot.{}.html"


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    shown = getattr(skfewshot, name)()._repr_html_()
    assert f'href="{PAGE.format(name)}"' in shown
    assert f"Documentation for {name}" in shown


def test_links_of_parameters():
    assert f'href="{PAGE.format("CMMClassifier")}#:~:text=alpha,' in (
        CMMClassifier()._repr_html_()
    )


def test_links_in_a_pipeline():
    shown = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier())._repr_html_()
    for name in ("CLIPFeaturizer", "CMMClassifier"):
        assert f'href="{PAGE.format(name)}"' in shown


def test_a_class_of_a_user_has_no_page():
    class Own(CMMClassifier):
        pass

    assert PAGE.format("Own") not in Own()._repr_html_()


def test_a_device_that_this_machine_lacks_does_not_matter():
    featurizer = CLIPFeaturizer("tiny", device="nowhere")
    assert PAGE.format("CLIPFeaturizer") in featurizer._repr_html_()
    assert "device_" not in dir(featurizer)
    with pytest.raises(ValueError, match="device='nowhere'"):
        CLIPFeaturizer("tiny", device="nowhere").encode_text(["a"])
    with pytest.raises(AttributeError, match="device='nowhere' is not a torch device"):
        _ = CLIPFeaturizer("tiny", device="nowhere").device_
