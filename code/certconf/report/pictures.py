"""Images as pictures, and small ones inside a page: an image and one noisy copy of it, as data URLs."""
import base64
import io

import numpy as np
from PIL import Image

LARGEST = 64  # pixels per side


def data_url(image: Image.Image) -> str:
    """An image as a URL that holds it: a PNG file if it is small, else JPEG."""
    buffer, small = io.BytesIO(), max(image.size) <= LARGEST // 2
    image.save(buffer, "png" if small else "jpeg", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture_urls(x: np.ndarray, sigma: float, index: int) -> dict[str, str]:
    """URLs of an image, shrunk to LARGEST, and of a noisy copy of its middle; {} for other than 1 or 3 channels.

    x: [C, H, W], pixels in [0, 1]. The noise is for the eye: pixels outside [0, 1] are cut off. A noisy copy that is
    shrunk would look less noisy than it is, so a large one is cut out instead.
    """
    if len(x) not in (1, 3):
        return {}
    clean, noisy = picture(x), x + sigma * np.random.default_rng(index).standard_normal(x.shape)
    top, left = (max(side - LARGEST, 0) // 2 for side in x.shape[1:])
    clean.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return {"picture": data_url(clean),
            "noisy": data_url(picture(noisy[:, top:top + LARGEST, left:left + LARGEST]))}


def picture(x: np.ndarray) -> Image.Image:
    """x [C, H, W] of 1 or 3 channels as a picture of its own size; pixels outside [0, 1] are cut off."""
    array = np.round(255 * np.clip(x, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
