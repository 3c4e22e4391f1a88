"""The sandbox's pictures: large letters that say what was asked for, on a colour of its own."""

import colorsys
import hashlib
import io
import re

from PIL import Image

from sandbox import lettering

_QUOTED = re.compile(r'[“"]([^“”"]{1,300})[”"]')
_KIND = re.compile(r'^\s*([^:“"\n]{1,60}?)\s*[:“"]')
_ENCODER_OPTIONS: dict[str, dict[str, int]] = {
    "webp": {"quality": 80, "method": 2},
    "png": {"compress_level": 1},
    "jpeg": {"quality": 85},
}
FORMATS = tuple(_ENCODER_OPTIONS)


def draw(prompt: str, width: int, height: int, output_format: str) -> bytes:
    """A picture of width x height pixels as webp, png or jpeg.

    The colour comes from the prompt, so equal prompts look alike and different ones do not.
    """
    canvas = _background(prompt, width, height)
    kind, subject = what_was_asked(prompt)
    small, margin = max(10, min(width, height) // 24), min(width, height) // 16
    lettering.write(canvas, (margin, margin), kind, small)
    footer = f"{width} x {height}  {output_format}"
    lettering.write(canvas, (margin, height - margin - small), footer, small)
    _write_title(canvas, subject, margin)
    file = io.BytesIO()
    canvas.save(file, output_format, **_ENCODER_OPTIONS[output_format])
    return file.getvalue()


def what_was_asked(prompt: str) -> tuple[str, str]:
    """The kind of picture and its subject, as far as the prompt's wording gives them away.

    The subject is the first quoted passage, else the prompt's beginning; the kind is what stands
    before it on the first line, else "custom".
    """
    quoted, kind = _QUOTED.search(prompt), _KIND.search(prompt)
    subject = quoted.group(1) if quoted else prompt[:120]
    return (kind.group(1) if kind else "custom"), " ".join(subject.split())


def _background(prompt: str, width: int, height: int) -> Image.Image:
    hue = hashlib.sha256(prompt.encode()).digest()[0] / 256
    top, bottom = (
        tuple(round(255 * part) for part in colorsys.hls_to_rgb(tint % 1, lightness, 0.45))
        for tint, lightness in ((hue, 0.45), (hue + 0.1, 0.22))
    )
    shade = Image.linear_gradient("L").resize((width, height))
    size = (width, height)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), shade)


def _write_title(canvas: Image.Image, title: str, margin: int) -> None:
    """The title in the middle, in the largest letters in which it takes at most four lines."""
    room = canvas.width - 2 * margin
    largest = max(12, min(canvas.width, canvas.height) // 9)
    for size in range(largest, largest // 3, -2):
        lines = _wrap(title, size, room)
        if len(lines) <= 4 and all(lettering.width(line, size) <= room for line in lines):
            break
    step = round(size * 1.35)
    y = (canvas.height - step * min(len(lines), 4)) // 2
    for line in lines[:4]:
        lettering.write(canvas, (margin, y), line, size)
        y += step


def _wrap(text: str, size: int, room: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and lettering.width(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
