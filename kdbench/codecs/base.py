"""What every image codec can do, and the letters of its shapes.

Shape legend, used in every signature and comment of kdbench:

    B     images in a batch
    H, W  height and width of the image [px]; learned codecs pad both to multiples of 64
    N     channels between the layers of a transform (encoder, decoder, hyper: one each)
    M     channels of the latent y, which is (B, M, H/16, W/16)
    C     channels of whatever is at hand
    L     quality levels of one codec, counted from 0 by ascending bits

The hyper-latent z is (B, N, H/64, W/64) with the N of the hyperprior.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (H, W, 3), RGB


class ImageCodec(Protocol):
    """A codec from pixels to one self-contained file and back.

    Attributes:
        name: What tables and `kdbench bench` call it.
        levels: The settings it is measured at, by ascending bits. What the number means is the
            codec's business; nothing else may be asked of it.
    """

    @property
    def name(self) -> str: ...
    @property
    def levels(self) -> Sequence[int]: ...

    def encode(self, image: Image, level: int) -> bytes:
        """The whole file: every byte of it counts as bits.

        Raises:
            CodecError: `image` is not 8-bit RGB, or `level` is not one of `levels`.
        """
        ...

    def decode(self, data: bytes) -> Image:
        """The 8-bit RGB image of the size that was encoded.

        Raises:
            CodecError: `data` is not a file of this codec, or is damaged.
        """
        ...
