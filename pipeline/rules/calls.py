"""The call that a request becomes: every parameter that is sent to the image model."""

from pipeline.ports import ImageCall
from pipeline.rules.catalogue import Model
from pipeline.rules.prompts import PromptTooLong, render
from schemas.request import ImageRequest

__all__ = ["PromptTooLong", "build_call"]


def build_call(request: ImageRequest, model: Model, output_format: str = "webp") -> ImageCall:
    """What to send so that `model` makes the picture asked for, in the model's own words.

    `output_format` (webp, png or jpeg) is sent to models that take one. Raises `PromptTooLong`
    when a custom prompt is longer than the model takes: the user's own words are never cut.
    """
    return ImageCall(
        model=model.name,
        prompt=render(
            request,
            style_in_words=not model.takes_style,
            max_characters=model.max_prompt_characters,
        ),
        size=model.call_size(request.size),
        quality=model.call_quality(request.options.quality),
        style=request.options.style.value if model.takes_style else None,
        output_format=output_format if model.takes_output_format else None,
    )
