"""Pictures as OpenAI's side sells them: drawn to order, or from stock and as long as real ones."""

import base64
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache, cached_property

from sandbox.drawing import draw

_SEGMENT = 65_533  # bytes that one segment of a JPEG holds


class Picture:
    """A picture's bytes, and their base64, which is made once."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def base64(self) -> bytes:
        return base64.b64encode(self.data)


Draw = Callable[[str, int, int, str], Picture]
"""Prompt, width, height, format: a picture. May take its time: call it in a thread."""


def to_order(prompt: str, width: int, height: int, output_format: str) -> Picture:
    """A picture that says what was asked for."""
    return Picture(draw(prompt, width, height, output_format))


def from_stock(size_bytes: int) -> Draw:
    """Pictures of at least `size_bytes`, drawn once for each size and format: they cost no time."""

    @cache
    def stock(width: int, height: int, output_format: str) -> Picture:
        return Picture(pad(draw("stock", width, height, output_format), output_format, size_bytes))

    return lambda _, width, height, output_format: stock(width, height, output_format)


def pad(picture: bytes, output_format: str, size_bytes: int) -> bytes:
    """Make a picture longer, with noise where content credentials stand (C2PA): decoders pass over
    it, and compressing it is of no use."""
    noise = os.urandom(max(0, size_bytes - len(picture)))
    if output_format == "webp":
        chunk = b"C2PA" + struct.pack("<I", len(noise)) + noise + b"\0" * (len(noise) % 2)
        riff = picture[8:] + chunk
        return b"RIFF" + struct.pack("<I", len(riff)) + riff
    if output_format == "png":
        check = struct.pack(">I", zlib.crc32(b"caBX" + noise))
        chunk = struct.pack(">I", len(noise)) + b"caBX" + noise + check
        return picture[:-12] + chunk + picture[-12:]  # the last twelve bytes are the end's chunk
    parts = [noise[start : start + _SEGMENT] for start in range(0, len(noise), _SEGMENT)]
    segments = [b"\xff\xeb" + struct.pack(">H", len(part) + 2) + part for part in parts]
    return picture[:2] + b"".join(segments) + picture[2:]
