"""Scaling many pictures to a clip's size: what bounds a loader once decoding is quick."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from m4v.media.images import cover_box


def fit_picture(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Scale a picture until it just covers `height` x `width`, keep its centre, cut what overhangs.

    Bicubic and antialiased like `media.images.resize_cover`, about three times as fast. The part that is kept begins
    and ends at whole pixels; where it does so anyway, the two are within two levels of each other. Rounding may differ
    by one level between kinds of processors.
    """
    left, top, right, bottom = (round(edge) for edge in cover_box(image.shape[0], image.shape[1], height, width))
    part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    if part.shape[:2] == (height, width):
        return part.copy()
    picture = torch.from_numpy(part).permute(2, 0, 1)[None]
    scaled = F.interpolate(picture, size=(height, width), mode="bicubic", antialias=True)
    fitted: np.ndarray = scaled[0].permute(1, 2, 0).contiguous().numpy()
    return fitted
