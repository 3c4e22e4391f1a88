"""The image model and the media hosts, each behind the Protocol of `pipeline.ports`."""
