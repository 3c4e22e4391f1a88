"""The request for a picture: the data of an `entity-created` event and the body over HTTP.

Every length and count is bounded; lengths are in characters (Unicode code points). `null` means
the same as leaving a field out wherever a field has no other default.
"""

from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import ConfigDict, Field, StrictBool, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from schemas.context import Context, ListingStatus
from schemas.strings import EntityId, Folder, Tag, Text
from schemas.wire import WireModel

__all__ = [
    "AltText",
    "Context",
    "Entity",
    "EntityCreated",
    "EntityType",
    "EntityUpload",
    "ImageRequest",
    "ImageType",
    "ListingStatus",
    "Options",
    "Quality",
    "Size",
    "Style",
    "Upload",
]

GENERATED_ALT_CHARACTERS = 125  # about what screen readers speak in one go


class ImageType(StrEnum):
    """What the picture is for; it chooses the prompt's template."""

    LISTING = "listing"
    ARTICLE = "article"
    NEIGHBORHOOD = "neighborhood"
    HERO = "hero"
    CUSTOM = "custom"


class EntityType(StrEnum):
    """What the CMS calls the thing that gets the picture."""

    LISTING = "listing"
    ARTICLE = "article"
    NEWS = "news"
    NEIGHBORHOOD = "neighborhood"
    OTHER = "other"


class Size(StrEnum):
    """Width and height in pixels."""

    SQUARE = "1024x1024"
    LANDSCAPE = "1792x1024"
    PORTRAIT = "1024x1792"


class Quality(StrEnum):
    """How much work, and money, goes into the picture."""

    STANDARD = "standard"
    HD = "hd"


class Style(StrEnum):
    """Hyper-real and dramatic, or closer to a plain photograph."""

    VIVID = "vivid"
    NATURAL = "natural"


class Entity(WireModel):
    """The thing that a picture belongs to."""

    model_config = ConfigDict(extra="ignore")  # outcomes hold it, and outcomes may grow

    type: EntityType
    id: EntityId

    @property
    def key(self) -> str:
        """The key of its records on every topic, which keeps them in order."""
        return f"{self.type}:{self.id}"


class Options(WireModel):
    """How the picture is made."""

    size: Size | None = Field(
        None, description="When left out: 1792x1024 for type hero, else 1024x1024."
    )
    quality: Quality = Quality.STANDARD
    style: Style = Style.NATURAL


class Upload(WireModel):
    """Where the picture goes and whose it is."""

    folder: Folder | None = Field(
        None, description="Relative path on the media host, at most 200 characters."
    )
    entity_type: EntityType | None = None
    entity_id: EntityId | None = Field(None, description="1 to 200 characters.")
    alt: Text | None = Field(
        None,
        max_length=500,
        description="At most 500 characters. When left out or blank: the title or the name.",
    )
    tags: tuple[Tag, ...] = Field(
        (), max_length=50, description="At most 50 tags of 1 to 100 characters, without commas."
    )

    @property
    def entity(self) -> Entity | None:
        """The entity, when it is named by both its type and its id."""
        if self.entity_type is None or self.entity_id is None:
            return None
        return Entity(type=self.entity_type, id=self.entity_id)

    @property
    def entity_key(self) -> str | None:
        """`Entity.key` of that entity."""
        if self.entity_type is None or self.entity_id is None:
            return None
        return f"{self.entity_type}:{self.entity_id}"


class EntityUpload(Upload):
    """Where the picture goes and whose it is; the entity is part of every event."""

    entity_type: EntityType
    entity_id: EntityId = Field(description="1 to 200 characters.")


class AltText(NamedTuple):
    """A picture's alternative text, and whether it was derived rather than given."""

    text: str
    generated: bool


_CUSTOM_OR_CONTEXT: JsonDict = {
    "if": {"required": ["type"], "properties": {"type": {"const": ImageType.CUSTOM}}},
    "then": {
        "required": ["prompt"],
        "properties": {"prompt": {"type": "string", "pattern": r"\S"}},
    },
    "else": {
        "required": ["context"],
        "properties": {
            "prompt": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": r"^\s*$"}]},
            "context": {"minProperties": 1},
        },
    },
}


class ImageRequest(WireModel):
    """A request for one picture."""

    model_config = ConfigDict(json_schema_extra=_CUSTOM_OR_CONTEXT)

    type: ImageType
    prompt: Text | None = Field(
        None,
        max_length=32_000,
        description="For type custom, and only there: at most 32,000 characters, not blank.",
    )
    context: Context = Field(default_factory=Context)
    options: Options = Field(default_factory=Options)
    upload: Upload = Field(default_factory=Upload)
    skip_cache: StrictBool = Field(
        False, description="True buys a new picture even when the same one exists."
    )

    @field_validator("prompt")
    @classmethod
    def _blank_is_missing(cls, prompt: str | None) -> str | None:
        return prompt if prompt and not prompt.isspace() else None

    @model_validator(mode="after")
    def _says_what_to_show(self) -> Self:
        if self.type is ImageType.CUSTOM:
            if self.prompt is None:
                raise PydanticCustomError("prompt_missing", "prompt: is required for type custom")
        elif self.prompt is not None:
            raise PydanticCustomError(
                "prompt_unused",
                "prompt: is only for type custom; leave it out or use type custom, not {type}",
                {"type": self.type.value},
            )
        elif self.context.is_blank:
            raise PydanticCustomError(
                "context_blank",
                "context: says nothing; type {type} needs at least a title or a name",
                {"type": self.type.value},
            )
        return self

    @property
    def size(self) -> Size:
        """The size asked for, or the type's default."""
        default = Size.LANDSCAPE if self.type is ImageType.HERO else Size.SQUARE
        return self.options.size or default

    @property
    def alt(self) -> AltText:
        """The alternative text given, else the title or name, else the first words there are."""
        if given := _collapsed(self.upload.alt):
            return AltText(given, generated=False)
        context = self.context
        if heading := _collapsed(context.title) or _collapsed(context.name):
            return AltText(heading, generated=True)
        others = (
            self.prompt,
            context.theme,
            context.description,
            context.location,
            context.district,
            context.category,
            context.property_type,
            self.type.value,
        )
        words = next(filter(None, map(_collapsed, others)))
        return AltText(_beginning(words, GENERATED_ALT_CHARACTERS), generated=True)


class EntityCreated(ImageRequest):
    """The data of an `entity-created` event: a request that says whose picture it is."""

    upload: EntityUpload


def _collapsed(text: str | None) -> str:
    return " ".join(text.split()) if text else ""


def _beginning(text: str, characters: int) -> str:
    """The text, or as many of its whole words as fit together with an ellipsis."""
    if len(text) <= characters:
        return text
    cut = text[: characters - 1]
    return (cut.rpartition(" ")[0] or cut) + "…"
