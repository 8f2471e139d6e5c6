"""The report: what it says is so, names in it are no markup, and a browser shows it."""

import html
import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier, ProKeRClassifier
from skfewshot.datasets import make_object_images
from skfewshot.inspection import RejectingClassifier, Report, suggest
from skfewshot.inspection._findings import (
    calibration_bins,
    classes_alike,
    confusions,
    copies,
    read_findings,
    untrusted_names,
)
from skfewshot.metrics import expected_calibration_error

KINDS = ["striped star", "plain heart", "checked ring", "plain ball"]
EVIL = "<img src=x onerror=alert(1)>\u202e&amp;"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))),
    None,
)


@pytest.fixture(scope="module")
def labelled():
    """Images of four kinds, one with a wrong label, two of them nearly the same."""
    images, names = make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)
    images, names = list(images), np.array(names)
    wrong = int(np.flatnonzero(names == KINDS[0])[0])
    names[wrong] = KINDS[1]
    copy = np.array(images[5])
    copy[:2] = copy[:2] // 2
    return [*images, copy], np.append(names, names[5]), wrong


@pytest.fixture(scope="module")
def pipeline(labelled):
    images, names, _ = labelled
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(store_left_out=True))
    return model.fit(images, names)


@pytest.fixture(scope="module")
def pool():
    images = make_object_images(3, kinds=KINDS, random_state=1).images
    return [*images, "missing.png"]


@pytest.fixture(scope="module")
def report(pipeline, labelled, pool):
    images, names, _ = labelled
    read = clone(pipeline[0]).set_params(on_error="nan")
    model = make_pipeline(read.fit(images), pipeline[-1])
    with pytest.warns(UserWarning, match="could not be read"):
        return Report(model, images, names, X_pool=pool)


class Reader(HTMLParser):
    """Tags that are left open, those that there are, and text."""

    EMPTY = ("meta", "img", "br", "line", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def section(page, title):
    found = re.search(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", page, re.DOTALL)
    assert found, title
    return found[1]


# What it finds


def test_left_out_rows_are_found_among_others(pipeline, labelled):
    images, names, _ = labelled
    classifier = pipeline[-1]
    found = read_findings(pipeline, images, names)
    assert found.is_left_out
    np.testing.assert_array_equal(found.proba, classifier.left_out_proba_)
    assert (found.codes == classifier.support_codes_).all()
    new = make_object_images(1, kinds=KINDS, random_state=3).images
    mixed = [*images[3:5], *new]
    y = [*names[3:5], None, float("nan"), *KINDS[:2]]
    some = read_findings(pipeline, mixed, y)
    assert some.rows.tolist() == [0, 1, 4, 5] and some.n_unlabelled == 2
    np.testing.assert_allclose(some.proba[:2], classifier.left_out_proba_[3:5])
    np.testing.assert_allclose(
        some.proba[2:], pipeline.predict_proba(new)[2:], rtol=1e-4, atol=1e-6
    )


def test_findings(pipeline, labelled):
    images, names, wrong = labelled
    found = read_findings(pipeline, images, names)
    proba, codes = found.proba, found.codes
    best = proba.argmax(axis=1)
    assert found.accuracy == (best == codes).mean()
    for code, recall in enumerate(found.recalls()):
        assert recall == (best[codes == code] == code).mean()
    pairs = confusions(found)
    listed = sorted(int(i) for pair in pairs for i in pair.images)
    assert listed == np.flatnonzero(best != codes).tolist() and wrong in listed
    for pair in pairs:
        assert (codes[pair.images] == pair.of).all()
        assert (best[pair.images] == pair.taken_for).all()
    assert [5, len(names) - 1] in [group.tolist() for group in copies(found)]
    for pair in classes_alike(found):
        a, b = pair.of, pair.taken_for
        mean = (proba[codes == a, b].mean() + proba[codes == b, a].mean()) / 2
        assert a < b and pair.share == pytest.approx(mean) and mean >= 0.1
    bins = calibration_bins(found, n_bins=15)
    assert sum(b.n_images for b in bins) == len(codes)
    gaps = [abs(b.accuracy - b.confidence) * b.n_images for b in bins]
    labels = np.arange(proba.shape[1])
    wanted = expected_calibration_error(codes, proba, labels=labels)
    assert sum(gaps) / len(codes) == pytest.approx(wanted)
    trust = pipeline[-1].text_trust_
    assert untrusted_names(found) == [
        (c, pytest.approx(trust[c])) for c in np.argsort(trust) if trust[c] < 0.5
    ]


def test_classes_alike_without_rows_of_one(make_task):
    X, y, text = make_task(n_classes=3)
    model = CMMClassifier(text, store_left_out=True).fit(X, y)
    found = read_findings(model, X[y < 2], y[y < 2])
    shares = {(p.of, p.taken_for): p.share for p in classes_alike(found)}
    for (a, b), share in shares.items():
        given = [found.proba[found.codes == a, b], found.proba[found.codes == b, a]]
        means = [values.mean() for values in given if len(values)]
        assert share == pytest.approx(np.mean(means))


# What it says


def test_it_says_what_was_found(report, pipeline, labelled, pool):
    images, names, _ = labelled
    page = report.html
    found = read_findings(pipeline, images, names)
    reader = read(page)
    text = "".join(reader.text)
    assert f"{100 * found.accuracy:.0f}\xa0%" in text
    assert "Each image was judged by the classifier without it." in text
    classes = section(page, "Images and accuracy of each class")
    for kind in KINDS:
        assert f"<bdi>{kind}</bdi>" in classes
    n_copies = sum(map(len, copies(found)))
    assert f"{n_copies} images of " in section(page, "Near copies")
    doubts = section(page, "Doubtful labels")
    assert f"<b><bdi>{KINDS[1]}</bdi></b>" in doubts and f"{KINDS[0]}</bdi>?" in doubts
    chosen = suggest(pipeline, pool[:-1], 12)
    assert section(page, "What to label next").count("<figure>") == len(chosen)
    assert "store_left_out=True" in section(page, "Settings")
    assert pipeline[-1].encoder_.fingerprint in section(page, "Settings")


def test_it_needs_nothing_and_runs_nothing(report):
    reader = read(report.html)
    tags = [tag for tag, _ in reader.tags]
    assert "script" not in tags and "link" not in tags and "iframe" not in tags
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src", "data:image/")
        assert source.startswith("data:image/")
    assert re.findall(r"https?://", report.html) == []
    assert 5_000 < len(report.html) < 500_000


def test_names_are_no_markup(make_task, tmp_path):
    X, y, text = make_task(n_classes=3, noise=2.0)
    names = np.array([EVIL, "</bdi></td><script>alert(2)</script>\ud800", "a" * 500])
    model = CMMClassifier(dict(zip(names, text, strict=True)), store_left_out=True)
    file = tmp_path / "<script>alert(3)<script>.png"
    Image.new("RGB", (500, 300), "red").save(file)
    model.fit(X, names[y])
    report = Report(
        model, X, names[y], images=[file] * len(y), title="<b>&</b>", X_pool=X[:3]
    )
    page = report.save(tmp_path / "page.html").read_text("utf-8")
    reader = read(page)
    tags = {tag for tag, _ in reader.tags}
    assert "script" not in tags
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert page.count("alert(1)") == page.count(html.escape(EVIL).split("\u202e")[0])
    assert "a" * 100 not in page.split("<pre>")[0]
    assert "<h1>&lt;b&gt;&amp;&lt;/b&gt;</h1>" in page


def test_images_that_it_has_not_left_out_are_told(pipeline, labelled):
    images, names, _ = labelled
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier()).fit(images, names)
    page = Report(model, images, names).html
    assert "too good to be true" in page and "Doubtful labels" not in page
    read(page)


def test_without_names_and_pictures(make_task):
    X, y, _ = make_task()
    model = ProKeRClassifier(None, store_left_out=True).fit(X, y)
    page = Report(model, X, y).html
    assert "No names were used" in page and "<img" not in page
    read(page)


def test_saved_and_in_a_notebook(report, tmp_path):
    path = report.save(tmp_path / "report.html")
    assert path.read_text("utf-8") == report.html
    frame = Reader()
    frame.feed(report._repr_html_())
    ((tag, attributes),) = frame.tags
    assert tag == "iframe" and attributes["srcdoc"] == report.html
    assert attributes["sandbox"] == ""


@pytest.mark.parametrize("kind", [list, pd.DataFrame, pl.DataFrame])
def test_rows_and_a_pool_in_whatever_holds_them(kind, task):
    names = [f"f{i}" for i in range(task.X.shape[1])]
    more = {"columns": names} if kind is pd.DataFrame else {}
    more = {"schema": names} if kind is pl.DataFrame else more
    model = CMMClassifier(task.text, store_left_out=True)
    wanted = Report(model.fit(task.X, task.y), task.X, task.y, X_pool=task.queries)
    X, pool = kind(task.X, **more), kind(task.queries, **more)
    model.fit(X, task.y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Report(model, X, task.y, X_pool=pool)
    assert found.html == wanted.html


@pytest.mark.filterwarnings("ignore:.*could not be read")
def test_a_pool_of_which_few_or_none_could_be_read(pipeline, labelled, pool):
    images, names, _ = labelled
    read = clone(pipeline[0]).set_params(on_error="nan")
    model = make_pipeline(read.fit(images), pipeline[-1])
    page = Report(model, images, names, X_pool=["missing.png", *pool[:2]]).html
    part = section(page, "What to label next")
    assert "Of 2 images" in part and part.count("<figure>") == 2
    part = section(
        Report(model, images, names, X_pool=["missing.png"]).html, "What to label next"
    )
    assert "None of the images" in part and "<figure>" not in part


def test_pictures_of_what_is_round_a_pipeline(pipeline, labelled):
    images, names, _ = labelled
    wanted = Report(pipeline, images, names).html.count("<img")
    assert wanted
    grid = {"cmmclassifier__logit_scale": ["auto"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(images, names)
    for model in (search, RejectingClassifier(pipeline).fit(images, names)):
        assert Report(model, images, names).html.count("<img") == wanted
    inner = make_pipeline(make_pipeline(pipeline[0]), pipeline[-1])
    assert Report(inner, images, names).html.count("<img") == wanted


def test_what_is_refused(pipeline, labelled):
    images, names, _ = labelled
    for y, wanted in (
        (names[:3], "X has 25 images, but y has 3 labels"),
        (None, "y is None"),
        (["unicorn", *names[1:]], r"none of classes_: \['unicorn'\]"),
        ([None] * len(names), "no label"),
    ):
        with pytest.raises(ValueError, match=wanted):
            Report(pipeline, images, y)
    with pytest.raises(ValueError, match="images has 2 images; wanted are 25"):
        Report(pipeline, images, names, images=images[:2])
    with pytest.raises(TypeError, match="images must be a sequence"):
        Report(pipeline, images, names, images=iter(images))
    with pytest.raises(ValueError, match="coverage must be above 0 and below 1"):
        Report(pipeline, images, names, coverage=1.0)
    with pytest.raises(TypeError, match="model must be a fitted classifier"):
        Report(CLIPFeaturizer("tiny"), images, names)


# What a browser shows

_MEASURE = """<script>addEventListener("load", () => {
  document.title = JSON.stringify({
    broken: [...document.images].filter(i => !(i.complete && i.naturalWidth)).length,
    images: document.images.length,
    wide: document.documentElement.scrollWidth, inner: innerWidth,
    back: getComputedStyle(document.body).backgroundColor,
    evil: [...document.scripts].length,
  }); }); </script>"""


def browse(path, *options):
    command = [
        *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu"),
        *(f"--user-data-dir={path.parent / 'profile'}", "--enable-logging=stderr"),
        *("--virtual-time-budget=5000", "--dump-dom", *options, path.as_uri()),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    return found.stdout, console


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(report, tmp_path, width, scheme):
    path = report.save(tmp_path / "report.html")
    dom, console = browse(path)
    assert "What the classifier learned" in dom and console == []
    # Its own policy would not let us measure.
    policy = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
    page, replaced = policy.subn(_MEASURE, report.html)
    assert replaced == 1
    path.write_text(page, encoding="utf-8")
    preferred = "1" if scheme == "light" else "0"
    dom, console = browse(
        path,
        f"--window-size={width},900",
        f"--blink-settings=preferredColorScheme={preferred}",
    )
    measured = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1]))
    assert console == []
    assert measured["broken"] == 0 and measured["images"] > 12
    assert measured["wide"] <= measured["inner"] <= width
    assert measured["evil"] == 1  # the one that measures
    bright = np.mean([int(n) for n in re.findall(r"\d+", measured["back"])[:3]])
    assert (bright > 200) == (scheme == "light")
