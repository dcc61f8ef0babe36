"""`timm:NAME`: any architecture of timm, `hf-hub:OWNER/NAME@REVISION` or `local-dir:FOLDER`."""

from typing import TYPE_CHECKING, Any

from factory.models.encoders.kinds.packaged import (
    Forward,
    LibraryKind,
    Loaded,
    Loading,
    pool_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor


class TimmKind(LibraryKind):
    """Features of timm's models, with the preprocessing of their configuration."""

    kind = "timm"
    form = "timm:NAME"

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds a model, with the arguments, size and pooling that its card demands."""
        import timm

        if how.revision is not None:
            name = f"{name.partition('@')[0]}@{how.revision}"
        given = {key: _name_layer(value) for key, value in how.arguments.items()}
        module = timm.create_model(name, pretrained=how.pretrained, **{"num_classes": 0, **given})
        config = timm.data.resolve_model_data_config(module)
        if how.image_size is not None:
            config |= {"input_size": (3, how.image_size, how.image_size), "crop_pct": 1.0}
        config |= {key: each for key, each in (("mean", how.mean), ("std", how.std)) if each}
        preprocess = timm.data.create_transform(**config, is_training=False)
        forward: Forward = module
        if how.pooling != "default":

            def forward(batch: "Tensor") -> "Tensor":
                return pool_tokens(
                    module.forward_features(batch), how.pooling, module.num_prefix_tokens
                )

        revision = name.partition("@")[2] or module.pretrained_cfg.get("tag")
        return module, forward, preprocess, revision or None


def _name_layer(value: Any) -> Any:
    """Returns the layer class that cards pass in code, where a catalog can only write its name."""
    import timm.layers
    from torch import nn

    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
    return layers.get(value, value) if isinstance(value, str) else value
