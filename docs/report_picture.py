"""Draw docs/images/report.png: a report on a phone, light, and on a screen, dark.

Run it as ``python docs/report_picture.py``. It needs Chromium; nothing is downloaded.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.pipeline import make_pipeline

from skfewshot import CLIPFeaturizer, CMMClassifier
from skfewshot.datasets import NOVEL_KINDS, make_object_images
from skfewshot.inspection import Report

OUT = Path(__file__).parent / "images" / "report.png"
LOOK = {"kinds": NOVEL_KINDS, "clutter": 1.0, "noise": 0.1}
#: Windows of the browser: width, and whether it is dark.
WINDOWS = ((500, False), (900, True))
HEIGHT, GAP = 1500, 40


def make_report() -> Report:
    """Return a report on images with three wrong labels and a near copy."""
    images, names = make_object_images(8, return_X_y=True, random_state=0, **LOOK)
    rng = np.random.default_rng(1)
    for row in rng.choice(len(names), 3, replace=False):
        names[row] = rng.choice(NOVEL_KINDS)
    copy = np.array(images[7])
    copy[:3] = copy[:3] // 2
    images, names = [*images, copy], np.append(names, names[7])
    model = make_pipeline(CLIPFeaturizer("tiny"), CMMClassifier(store_left_out=True))
    pool = make_object_images(8, random_state=1, **LOOK).images
    return Report(model.fit(images, names), images, names, X_pool=list(pool))


def photograph(page: Path, width: int, is_dark: bool) -> Image.Image:
    """Return what a browser shows of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium is installed")
    picture = page.with_suffix(".png")
    command = [
        *(browser, "--headless=new", "--no-sandbox", "--hide-scrollbars"),
        *(f"--screenshot={picture}", f"--window-size={width},{HEIGHT}"),
        f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    with Image.open(picture) as image:
        return image.convert("RGB")


def main() -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder:
        page = make_report().save(Path(folder) / "report.html")
        shown = [photograph(page, *window) for window in WINDOWS]
    width = sum(image.width for image in shown) + GAP * (len(shown) + 1)
    sheet = Image.new("RGB", (width, HEIGHT + 2 * GAP), "#8c959f")
    left = GAP
    for image in shown:
        sheet.paste(image, (left, GAP))
        left += image.width + GAP
    sheet = sheet.quantize(128, dither=Image.Dither.NONE)
    sheet.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
