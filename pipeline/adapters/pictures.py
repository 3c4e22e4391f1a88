"""What received bytes really are: a decodable picture, its format and its dimensions."""

import hashlib
import io

from PIL import Image

from pipeline.ports import ImageFacts

MAX_PIXELS = 40_000_000  # the largest picture on sale has 8,294,400
_FORMATS = {"WEBP": "webp", "PNG": "png", "JPEG": "jpeg"}


def inspect(data: bytes) -> ImageFacts:
    """Decode every pixel and read off the facts.

    Raises `ValueError` with one sentence for anything but a whole webp, png or jpeg of at most
    `MAX_PIXELS`. Takes some 100 ms for a large picture: call it in a thread.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(_FORMATS)) as picture:
            picture_format, (width, height) = str(picture.format), picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"the picture has {width}x{height} pixels, which is too many")
            picture.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("the picture has too many pixels") from error
    except ValueError:
        raise
    except Exception as error:  # damaged data makes Pillow's decoders raise almost anything
        raise ValueError("the bytes are no whole webp, png or jpeg picture") from error
    return ImageFacts(
        format=_FORMATS[picture_format],
        width=width,
        height=height,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
