"""The pages are true: their code runs, their links lead on, what they name is there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from skfewshot import CLIPFeaturizer, __version__
from skfewshot.datasets import make_object_images, make_scenes

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
#: A block, and the comment before it that says why it is not run, if there is one.
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?"
    r"(?P<indent> *)```python\n(?P<code>.*?)\n *```$",
    re.MULTILINE | re.DOTALL,
)
#: Pages of over two seconds, with searches and saved files.
SLOW = {"limits", "many-images", "saving", "search", "thresholds"}
KINDS = ["striped star", "plain heart", "checked ring"]
LABELS = ["plain ball", "striped star", "checked ring"]


def blocks_of(page):
    """Return (line, reason not to run it or None, code) of each block of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        (
            text.count("\n", 0, match.start("code")),
            match["reason"],
            re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
        )
        for match in BLOCK.finditer(text)
    ]


def runnable(page):
    return [block for block in blocks_of(page) if block[1] is None]


@pytest.fixture(scope="module")
def readers_things():
    """What a reader has: images and names, and scenes with several labels."""
    images, names = make_object_images(6, kinds=KINDS, random_state=0, return_X_y=True)
    new_images, new_names = make_object_images(
        6, kinds=KINDS, random_state=1, return_X_y=True
    )
    scenes = make_scenes(24, kinds=LABELS, random_state=0)
    new_scenes = make_scenes(12, kinds=LABELS, random_state=1)
    return {
        "images": list(images),
        "names": np.asarray(names),
        "new_images": list(new_images),
        "new_names": np.asarray(new_names),
        "scenes": scenes.images,
        "Y": scenes.labels,
        "new_scenes": new_scenes.images,
        "new_Y": new_scenes.labels,
        "label_names": LABELS,
    }


@pytest.fixture
def embedded_model_by_default(monkeypatch):
    """The default model would be downloaded; here it is the embedded one."""
    defaults = ("tiny", *CLIPFeaturizer.__init__.__defaults__[1:])
    monkeypatch.setattr(CLIPFeaturizer.__init__, "__defaults__", defaults)


@pytest.mark.usefixtures("embedded_model_by_default")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [])
        for page in PAGES
        if runnable(page)
    ],
    ids=lambda page: page.stem,
)
def test_code_of_a_page_runs(page, readers_things, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace = dict(readers_things)
    for line, _, code in runnable(page):
        # Empty lines above make the numbers in a traceback those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_most_blocks_are_run():
    pages = [page for page in PAGES if page.parent.name == "guide"]
    blocks = [block for page in pages for block in blocks_of(page)]
    not_run = [reason for _, reason, _ in blocks if reason]
    assert len(blocks) > 30
    assert all(len(reason) > 10 for reason in not_run)
    assert len(not_run) < len(blocks) / 2


def test_every_block_of_python_is_found():
    for page in PAGES:
        fences = re.findall(r"^ *```python", page.read_text("utf-8"), re.MULTILINE)
        assert len(fences) == len(blocks_of(page)), page


def test_links_between_pages_of_the_docs_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_file_of_the_package_has_its_place_in_the_plan():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(skfewshot/[\w/]+\.py)`", text))
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "skfewshot").rglob("*.py")
        if path.stem != "__init__"
    }
    assert files <= named, sorted(files - named)
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_lowest_versions_are_those_of_the_package():
    command = [sys.executable, ROOT / ".ci" / "lowest"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for wanted in project["project"]["dependencies"]:
        assert f"{wanted.replace('>=', '==')}.*\n" in made


def test_code_beside_an_equation_is_the_only_such_code():
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"```\{literalinclude\} \.\./(.+)\n(?:.+\n)*?"
        r':start-at: "(.+)"\n:end-at: "(.+)"\n',
        text,
    )
    assert len(blocks) == text.count("{literalinclude}") > 20
    for path, start, end in blocks:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        starts = [number for number, line in enumerate(lines) if start in line]
        assert len(starts) == 1, f"{path}: {start!r} stands in lines {starts}"
        rest = lines[starts[0] :]
        length = next(number for number, line in enumerate(rest) if end in line)
        assert length < 20, f"{path}: {length} lines from {start!r} to {end!r}"


def test_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation


def test_tests_named_in_the_table_of_reliability_exist():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")
    )
    defined = set(re.findall(r"def (test_\w+)\(", sources))
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text))
    assert len(named) > 80
    assert named <= defined, sorted(named - defined)
    for path in re.findall(r"`([\w/]+\.py)(?:::|`)", text):
        assert list((ROOT / "tests").rglob(path)), path
