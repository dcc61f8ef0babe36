"""`torchvision:NAME`: torchvision's own weights, e.g. `torchvision:resnet18`."""

from factory.models.encoders.kinds.packaged import LibraryKind, Loaded, Loading


class TorchvisionKind(LibraryKind):
    """Features before the classes, with the weights' own preprocessing."""

    kind = "torchvision"
    form = "torchvision:NAME"

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds `resnet18`, ..."""
        from torch import nn
        from torchvision import models

        weights = models.get_model_weights(name).DEFAULT
        module = models.get_model(name, weights=weights if how.pretrained else None)
        for head in ("fc", "classifier", "heads", "head"):
            if hasattr(module, head):
                setattr(module, head, nn.Identity())
                break
        return module, module, weights.transforms(), str(weights) if how.pretrained else None
