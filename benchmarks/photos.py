"""Makes JPEG files like photographs, for timing: nothing here has a meaning to learn.

Their spectrum falls as that of natural images does, so that a file is as large, and
takes as long to decode, as a photograph of its size.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, QUALITY = 640, 480, 90
#: The amplitude of a frequency f is f to the power of minus a number from this range:
#: rich in detail to smooth.
FALLS = (1.25, 1.65)
#: Standard deviations of light and of the two colour differences, of 255.
SPREADS = (52.0, 16.0, 16.0)
#: Standard deviation of the noise of a sensor.
NOISE = 2.0


def photo_files(folder, number):
    """Return the paths of `number` photographs, made where they are not there yet.

    Parameters
    ----------
    folder : path
        Made if missing; may hold those of an earlier run.
    number : int

    Returns
    -------
    list of str
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{WIDTH}x{HEIGHT}q{QUALITY}"
    paths = [folder / f"photo_{name}_{index:05d}.jpg" for index in range(number)]
    for index, path in enumerate(paths):
        if not path.exists():
            unfinished = path.with_suffix(".part")
            make_photo(index).save(unfinished, "JPEG", quality=QUALITY)
            unfinished.replace(path)
    return [str(path) for path in paths]


def make_photo(seed):
    """Return an RGB image of coloured clouds at all scales, with noise."""
    rng = np.random.default_rng(seed)
    fall = rng.uniform(*FALLS)
    light, blue, red = (spread * _clouds(rng, fall) for spread in SPREADS)
    light = 118 + light + rng.normal(scale=NOISE, size=light.shape)
    bands = np.stack([light, 128 + blue, 128 + red], axis=-1)
    pixels = np.clip(np.rint(bands), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels, "YCbCr").convert("RGB")


def _clouds(rng, fall):
    """Return a random field (HEIGHT, WIDTH) of mean 0 and standard deviation 1."""
    frequency = np.hypot(
        np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None, :]
    )
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(rng.normal(size=(HEIGHT, WIDTH))) / frequency**fall
    field = np.fft.irfft2(waves, (HEIGHT, WIDTH))
    return (field - field.mean()) / field.std()


def digest_of(paths):
    """Return a short hash of the files, which says that two runs read the same."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]
