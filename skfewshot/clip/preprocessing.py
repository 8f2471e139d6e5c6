"""open_clip's preprocessing of an image, in two parts: geometry first, then numbers."""

import numpy as np

# Images longer than so many times their shorter side lose their ends before a resize.
_LONGEST_RATIO = 8


class Preprocessor:
    """open_clip's preprocessing, cut in two: geometry in bytes, then numbers.

    Geometry (resize and crop) runs where images are decoded, numbers (scale, mean and
    standard deviation) run a batch at a time on the model's device. A quarter of the
    memory moves, and the result is the same to the last bit.

    Parameters
    ----------
    transform : torchvision.transforms.Compose
        open_clip's transform for inference, ending in to-RGB, to-tensor, normalise.
    """

    def __init__(self, transform):
        *geometry, convert, to_tensor, normalize = transform.transforms
        names = [type(step).__name__ for step in (convert, to_tensor, normalize)]
        if names != ["MaybeConvertMode", "MaybeToTensor", "Normalize"]:
            raise RuntimeError(
                f"This version of open_clip preprocesses by {names}, which "
                "skfewshot does not know; please report it."
            )
        self._geometry = geometry
        self._crops = "CenterCrop" in [type(step).__name__ for step in geometry]
        self._mean, self._std = normalize.mean, normalize.std

    def to_pixels(self, image):
        """Resize and crop an RGB PIL image; return uint8 pixels (H, W, 3)."""
        if self._crops:
            image = _without_ends(image)
        for step in self._geometry:
            image = step(image)
        return np.asarray(image)

    def to_input(self, pixels, device, dtype):
        """Scale and normalise a batch on `device`; return a tensor (n, 3, H, W)."""
        import torch

        images = torch.from_numpy(pixels)
        if device.type == "cuda":  # pinned, the copy need not wait for the last batch
            images = images.pin_memory().to(device, non_blocking=True)
        images = images.to(device).permute(0, 3, 1, 2)
        images = images.to(torch.float32).div_(255).contiguous()
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self._mean, device=device, dtype=torch.float32)
        std = torch.tensor(self._std, device=device, dtype=torch.float32)
        return images.sub_(mean.view(shape)).div_(std.view(shape)).to(dtype)


def _without_ends(image):
    """Cut the ends off a very long image, which the centre crop would cut anyway.

    The resize before that crop would need memory in proportion to them.
    """
    width, height = image.size
    longest = _LONGEST_RATIO * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop(
        (left, top, left + min(width, longest), top + min(height, longest))
    )
