"""Pictures of any mode to 8-bit RGB, the right way up."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_EXIF_ORIENTATION = 0x0112
_STRIP_PIXELS = 2**20
# A picture of many bits that uses less of their range than this is all but black.
_LEAST_USED = 0.25
_TOPS = (255, 1023, 4095, 16383, 65535)


def to_rgb(image: "Picture") -> "Picture":
    """Turn a PIL image of any mode into an upright RGB one; the input stays as it is.

    Transparent parts are laid on white. 16-bit grey is scaled to 8 bits, not clipped.
    32-bit and float grey, whose range is not stored, is taken to span 1 (floats only),
    255 or 65535, whichever is the first to hold its values but for a tenth (resizing
    may overshoot), or else its own range without the outermost half percent.

    Parameters
    ----------
    image : PIL.Image.Image

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ValueError
        If it has no pixels, or values of more than 8 bits that are not finite or use
        less than a quarter of their range, as 12-bit X-rays in 16 bits do: they would
        be all but black, and how they are to be stretched is not in the picture.
    """
    from PIL import Image, ImageOps

    if 0 in image.size:
        raise ValueError(f"it has no pixels, its size is {image.size}")
    image.load()
    if _is_turned(image):
        image = ImageOps.exif_transpose(image)
    if image.mode == "La":  # premultiplied; PIL turns it into nothing else
        image = image.convert("LA")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: "Picture") -> "Picture":
    """Lay a transparent image on white: in strips, for it takes four copies."""
    from PIL import Image

    laid = Image.new("RGB", image.size)
    n_rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, n_rows):
        end = min(top + n_rows, image.height)
        strip = image.crop((0, top, image.width, end)).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        laid.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return laid


def _is_turned(image: "Picture") -> bool:
    """Say whether EXIF data ask for the image to be turned or mirrored."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    except Exception:  # broken EXIF data do not make the pixels any worse
        return False


def _to_8_bits(image: "Picture") -> NDArray:
    """Scale the grey values of a 16-bit, 32-bit or float image to [0, 255]."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    clear = image.info.get("transparency")
    is_clear = values == clear if isinstance(clear, int) else None
    shown = values if is_clear is None else values[~is_clear]
    if shown.size:
        low, span = _span_of(shown, image.mode)
        values -= low  # in place: an image may have many pixels
        values *= 255 / max(span, 1e-12)
    np.clip(values, 0, 255, out=values)
    if is_clear is not None:
        values[is_clear] = 255
    return np.rint(values, out=values).astype(np.uint8)


def _span_of(values: NDArray, mode: str) -> tuple[float, float]:
    """Return what is black, and how far above it white is."""
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16"):
        top = 65535
    else:
        tops = (1, 255, 65535) if mode == "F" else (255, 65535)
        fitting = [top for top in tops if low >= -top / 10 and high <= 1.1 * top]
        if not fitting:
            black, white = np.quantile(values, (0.005, 0.995), method="nearest")
            return float(black), float(white - black)
        top = fitting[0]
    # One value all over is as it is: there is nothing in it to be seen.
    if 0 < high - low < _LEAST_USED * top:
        raise ValueError(_how_to_stretch(low, high, top, mode))
    return 0.0, float(top)


def _how_to_stretch(low: float, high: float, top: int, mode: str) -> str:
    """Say what is wrong with a picture that is all but black, and the line that helps.

    Whole numbers are stretched by the bits that hold them, so that the same line
    does for all pictures of a camera.
    """
    black, white = low, high
    if mode != "F" and low >= 0 and high - low >= high / 2:
        black, white = 0, next(bits for bits in _TOPS if high <= bits)
    values: Any = "np.asarray(image)"
    if black:
        values = f"({values} - {black:.9g})"
    return (
        f"it has values from {low:.6g} to {high:.6g} only, of a range that reaches "
        f"from 0 to {top}, and would be all but one shade. Pass it stretched, such as "
        f"Image.fromarray(({values} * {255 / (white - black):.9g})"
        '.clip(0, 255).astype("uint8")), and all others of its kind by the same numbers'
    )
