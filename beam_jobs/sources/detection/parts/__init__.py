"""Files that datasets of objects have beside images: annotations in XML, descriptions in YAML, panoptic masks."""

__all__: list[str] = []
