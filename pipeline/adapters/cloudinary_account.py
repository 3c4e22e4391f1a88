"""The Cloudinary account that a CLOUDINARY_URL names.

It stands apart from the host so that a wrong URL can be reported before Cloudinary's SDK is
imported, which reads the environment itself and fails in its own words.
"""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_EXAMPLE = "cloudinary://key:secret@cloud"


@dataclass(frozen=True, slots=True)
class CloudinaryAccount:
    """Who uploads, and where to; `upload_prefix` None means Cloudinary itself."""

    cloud_name: str
    api_key: str
    api_secret: str = field(repr=False)
    upload_prefix: str | None = None
    signature_algorithm: str = "sha1"

    @classmethod
    def parse(cls, url: str) -> "CloudinaryAccount":
        """Read `cloudinary://key:secret@cloud?upload_prefix=…&signature_algorithm=sha256`.

        Raises `ValueError` with a sentence that does not hold the secret.
        """
        try:
            parts = urlsplit(url.strip())
        except ValueError:
            raise ValueError(f"the Cloudinary URL cannot be read; example: {_EXAMPLE}") from None
        if parts.scheme != "cloudinary":
            raise ValueError(f"the Cloudinary URL must start with cloudinary:// as in {_EXAMPLE}")
        if not parts.hostname or not parts.username or not parts.password:
            missing = "cloud" if not parts.hostname else "key" if not parts.username else "secret"
            raise ValueError(f"the Cloudinary URL has no {missing}; example: {_EXAMPLE}")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        prefix, algorithm = options.get("upload_prefix"), options.get("signature_algorithm", "sha1")
        if prefix is not None and not prefix.startswith(("http://", "https://")):
            raise ValueError("upload_prefix in the Cloudinary URL must be http or https")
        if algorithm not in ("sha1", "sha256"):
            raise ValueError("signature_algorithm in the Cloudinary URL must be sha1 or sha256")
        return cls(
            cloud_name=parts.hostname,
            api_key=parts.username,
            api_secret=parts.password,
            upload_prefix=prefix.rstrip("/") if prefix else None,
            signature_algorithm=algorithm,
        )
