"""Letters for the sandbox's pictures, Turkish ones included.

Pillow's bundled font has the ASCII letters only. A letter with a mark is therefore drawn as its
base letter plus strokes for the mark, so that no font has to be installed.
"""

import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

_PLAIN = {"–": "-", "—": "-", "‘": "'", "•": "·", "\u00a0": " "}
_IN_FONT = frozenset(map(chr, range(0x20, 0x7F))) | frozenset("“”’…")
_DOTLESS = {"ı": "i", "î": "i\u0302", "ï": "i\u0308", "í": "i\u0301", "ì": "i\u0300"}


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, so the sandbox cannot draw letters")
    return font


def _glyph(letter: str) -> tuple[str, str, bool]:
    """The base letter to draw, the combining marks over it, and whether an i loses its dot."""
    spelled = _DOTLESS.get(letter) or unicodedata.normalize("NFD", _PLAIN.get(letter, letter))
    base = spelled[0] if spelled[0] in _IN_FONT else "?"
    return base, spelled[1:], letter in _DOTLESS


def width(text: str, size: int) -> float:
    """How many pixels `text` takes in letters of `size` pixels."""
    font = _font(size)
    return sum(font.getlength(_glyph(letter)[0]) for letter in text)


def write(canvas: Image.Image, at: tuple[float, float], text: str, size: int) -> None:
    """Draw `text` in white, its top left corner at `at`, in letters of `size` pixels."""
    font, pen = _font(size), ImageDraw.Draw(canvas)
    x, y = at
    for letter in text:
        base, marks, dotless = _glyph(letter)
        if dotless:
            _write_dotless_i(canvas, (x, y), size)
        else:
            pen.text((x, y), base, font=font, fill="white")
        left, top, right, bottom = font.getbbox("x" if dotless else base)
        centre = x + (font.getlength(base) / 2 if dotless else (left + right) / 2)
        for mark in marks:
            _write_mark(pen, mark, centre, (y + top, y + bottom), size)
        x += font.getlength(base)


def _write_dotless_i(canvas: Image.Image, at: tuple[float, float], size: int) -> None:
    """The stem of an i: everything that is no higher than an x."""
    font = _font(size)
    box = (max(1, round(font.getlength("i"))), round(font.getbbox("i")[3]) + 1)
    stem = Image.new("L", box)
    pen = ImageDraw.Draw(stem)
    pen.text((0, 0), "i", font=font, fill=255)
    pen.rectangle((0, 0, box[0], font.getbbox("x")[1] - 1), fill=0)
    canvas.paste("white", (round(at[0]), round(at[1])), stem)


def _write_mark(
    pen: ImageDraw.ImageDraw, mark: str, x: float, span: tuple[float, float], size: int
) -> None:
    """One combining mark around x, above or below a letter that spans these two heights."""
    (top, bottom), stroke, reach = span, max(1, size // 14), size * 0.13
    above = top - size * 0.08
    dot, high = size * 0.055, above - size * 0.12
    match mark:
        case "\u0306":  # breve: ğ
            bowl = (x - reach, above - 2 * reach, x + reach, above)
            pen.arc(bowl, 15, 165, fill="white", width=stroke)
        case "\u0327":  # cedilla: ş, ç
            pen.line((x, bottom - stroke, x, bottom + size * 0.05), fill="white", width=stroke)
            hook = (x - reach, bottom + size * 0.03, x + reach * 0.7, bottom + size * 0.2)
            pen.arc(hook, -80, 140, fill="white", width=stroke)
        case "\u0307":  # dot: İ
            pen.circle((x, above - dot), dot, fill="white")
        case "\u0308":  # diaeresis: ö, ü
            for side in (-reach, reach):
                pen.circle((x + side, above - dot), dot, fill="white")
        case "\u0302":  # circumflex: â, î, û
            roof = ((x - reach, above), (x, high), (x + reach, above))
            pen.line(roof, fill="white", width=stroke)
        case "\u0301":  # acute: é
            pen.line((x - reach / 2, above, x + reach, high), fill="white", width=stroke)
        case "\u0300":  # grave: è
            pen.line((x + reach / 2, above, x - reach, high), fill="white", width=stroke)
        case _:  # other marks do not change what a reader understands
            pass
