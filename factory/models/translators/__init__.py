"""One-pass translators of images: networks whose public weights fit, and their configuration."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from factory.models.translators.config import (
    CONFIG,
    WEIGHTS,
    NetworkSettings,
    TranslatorConfig,
    read_config,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CONFIG", "NETWORKS", "WEIGHTS", "TranslatorConfig", "build_network", "read_config"]

NETWORKS = {
    "resnet": "ResnetGenerator",
    "unet": "UnetGenerator",
    "unetpp": "UnetPlusPlus",
    "histoplexer": "HistoplexerUnet",
    "vit": "VitDecoder",
}
"""Kind of network, which is a module here with its `read_settings` -> the class."""


def build_network(settings: NetworkSettings) -> "nn.Module":
    """Returns a network with random weights."""
    module: Any = import_module(f"{__name__}.{settings.kind}")
    network: nn.Module = getattr(module, NETWORKS[settings.kind])(settings)
    return network
