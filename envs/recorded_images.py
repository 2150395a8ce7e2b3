"""Images as others recorded them: of any order of channels, range and size."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import FaultyEpisodeError, UnsupportedSpaceError
from .codecs import CHANNELS

Array = NDArray[Any]


def is_image(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether rows of this shape and type are images: with three axes, or with two and of uint8."""
    return len(shape) == 3 or (len(shape) == 2 and dtype == np.uint8)


class RecordedImages:
    """Turns recorded images into uint8 (height, width, 3).

    Channels, one or three, may come last, first, or not at all. Values are integers in 0 to 255, or floats: in 0 to 1
    if those of the first images are, else in 0 to 255.

    Args:
        shape: of an image, as recorded.
        first: (n, *shape), images of floats from which their range is told.
        size: height and width to which images are brought, by averaging over the area of each new pixel (Pillow's box
            filter); images that are not square are stretched. None leaves them as they are.

    Attributes:
        shape: (height, width, 3), of the images that come out.

    Raises:
        UnsupportedSpaceError: images with other channels, such as transparency or several views stacked.
    """

    def __init__(self, shape: tuple[int, ...], first: Array | None = None, size: int | None = None) -> None:
        self._first = len(shape) == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS
        if len(shape) == 3 and shape[-1] not in CHANNELS and not self._first:
            raise UnsupportedSpaceError(
                f"Images of shape {shape} are not understood: an image has two axes, or three, the last or the first "
                "of 1 or 3 channels."
            )
        height, width = shape[1:] if self._first else shape[:2]
        self._size, self.shape = size, (size or height, size or width, 3)
        self._resized = (height, width) != self.shape[:2]
        self._recorded = shape
        self._unit = first is not None and bool(np.nanmax(first, initial=0.0) <= 1.0)
        self._threads = (
            ThreadPoolExecutor(os.cpu_count()) if self._resized else None
        )  # Pillow works without Python's lock

    def __call__(self, images: Array, where: str) -> Array:
        """Return (n, height, width, 3) of uint8 for recorded images (n, ...).

        Args:
            images: recorded.
            where: they are, for messages.

        Raises:
            FaultyEpisodeError: another shape, or values outside the range of the first images.
        """
        if images.shape[1:] != self._recorded:
            raise FaultyEpisodeError(f"{where}: images of shape {images.shape[1:]} among others of {self._recorded}.")
        if images.dtype != np.uint8:
            images = self._bytes(images, where)
        if images.ndim == 3:
            images = images[..., None]
        elif self._first:
            images = np.moveaxis(images, 1, -1)
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        if self._threads is None:
            return images
        return np.stack(list(self._threads.map(self._resize, images)))

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def _bytes(self, images: Array, where: str) -> Array:
        highest = 1.0 if self._unit else 255.0
        lowest_seen, highest_seen = images.min(initial=0), images.max(initial=0)
        if not (lowest_seen >= 0 and highest_seen <= highest):  # NaN is neither
            raise FaultyEpisodeError(
                f"{where}: image values from {lowest_seen:g} to {highest_seen:g}, where those of the first images lie "
                f"in 0 to {highest:g}."
            )
        return np.rint(images * 255.0 if self._unit else images).astype(np.uint8)

    def _resize(self, image: Array) -> Array:
        height, width, _ = self.shape
        resized = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BOX)
        return np.asarray(resized)
