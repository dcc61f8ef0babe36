"""`open_clip:ARCH/WEIGHTS_TAG`, `open_clip:hf-hub:OWNER/NAME` or `open_clip:local-dir:FOLDER`."""

from typing import Any

from factory.models.encoders.kinds.packaged import LibraryKind, Loaded, Loading


class OpenClipKind(LibraryKind):
    """The image side of contrastive models; `zero_shot` and `alignment` read their text side."""

    kind = "open_clip"
    form = "open_clip:NAME"

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds the image side.

        Raises:
            ValueError: an architecture without weights.
        """
        import open_clip

        architecture, tag = name, ""
        if ":" not in name:
            architecture, _, tag = name.partition("/")
        if how.pretrained and not tag and ":" not in name:
            raise ValueError(f"{name} names no weights: give {name}/WEIGHTS_TAG")
        model: Any
        if how.pretrained:
            model, preprocess = open_clip.create_model_from_pretrained(architecture, tag or None)
        else:
            model, _, preprocess = open_clip.create_model_and_transforms(architecture)
        return model, model.encode_image, preprocess, tag or None
