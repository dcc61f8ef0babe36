"""GigaTIME-Flash: a vision transformer with a convolutional decoder, with its weights' names.

The encoder is timm's; low-rank adapters of its training are added to its weights by `adapt`.
"""

import itertools
import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import interpolate

from factory.models.translators.config import VitSettings

_TAPS = (11, 8, 5, 3)
"""Blocks whose tokens the decoder sees, the deepest first."""
_DEPTH, _HEAD, _RANK, _SCALE = 12, 64, 8, 2.0
"""Blocks, channels of an attention head, and rank and scale (alpha 16 / 8) of the adapters, as the
code has them: a checkpoint does not say the second and the last."""
_WRAPPED, _LORA = "encoder.base_model.model.", (".lora_A.default.weight", ".lora_B.default.weight")


class VitDecoder(nn.Module):
    """Maps (N, 3, S, S) to (N, out, S, S): the tokens of four depths, doubled step by step."""

    def __init__(self, settings: VitSettings) -> None:
        from timm.layers import SwiGLUPacked
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        width, patch = settings.width, settings.patch
        self.encoder = VisionTransformer(
            img_size=settings.grid * patch,
            patch_size=patch,
            in_chans=settings.in_channels,
            num_classes=0,
            embed_dim=width,
            depth=_DEPTH,
            num_heads=width // _HEAD,
            mlp_ratio=(settings.hidden + 0.5) / width,  # cut to a whole number there
            init_values=1e-5,
            mlp_layer=SwiGLUPacked,
            act_layer=nn.SiLU,
            dynamic_img_size=True,
        )
        for level in (4, 3, 2, 1):
            self.add_module(f"decoder{level}", _build_level(width >> (4 - level)))
        for level in (1, 2, 3):
            self.add_module(f"skip{level}", _build_skip(width, width >> (4 - level), 4 - level))
        self.final_conv = nn.Conv2d(width >> 4, settings.out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits."""
        encoder = self.encoder
        grid = encoder.patch_embed(images)  # (N, side, side, width)
        side = grid.shape[1]
        tokens = grid.flatten(1, 2) + self._place(side)
        seen: dict[int, Tensor] = {}
        for number, block in enumerate(encoder.blocks):
            tokens = block(tokens)
            if number in _TAPS:
                seen[number] = tokens.transpose(1, 2).reshape(len(images), -1, side, side)
        values = self.get_submodule("decoder4")(seen[_TAPS[0]])
        for level, tap in zip((3, 2, 1), _TAPS[1:], strict=True):
            skip = self.get_submodule(f"skip{level}")(seen[tap])
            values = self.get_submodule(f"decoder{level}")(values + skip)
        made: Tensor = self.final_conv(values)
        return made

    def _place(self, side: int) -> Tensor:
        """Returns the (1, side x side, width) embeddings of places; the class token has none."""
        known: Tensor = self.encoder.pos_embed[:, 1:]
        own = math.isqrt(known.shape[1])
        grid = known.transpose(1, 2).reshape(1, -1, own, own)
        moved = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        return moved.flatten(2).transpose(1, 2)


def _build_level(width: int) -> nn.Sequential:
    made = width // 2
    return nn.Sequential(
        nn.Conv2d(width, made, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(made, made, 3, padding=1),
        nn.ReLU(True),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    )


def _build_skip(width: int, made: int, doublings: int) -> nn.Sequential:
    widths = [width, *[made] * doublings]
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(nn.ConvTranspose2d(taken, given, 2, 2) for taken, given in pairs))


def adapt(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the weights by the names here, with the adapters added; nothing is left out.

    Raises:
        KeyError: an adapter without its other half or its weight.
        ValueError: one of another rank, whose scale is not known.
    """
    named = {key.replace(_WRAPPED, "encoder.", 1): value for key, value in state.items()}
    named = {key.replace(".base_layer.", "."): value for key, value in named.items()}
    for key in [key for key in named if key.endswith(_LORA[0])]:
        place = key.removesuffix(_LORA[0])
        inner, outer = (named.pop(place + end).float() for end in _LORA)
        if inner.shape[0] != _RANK:
            raise ValueError(f"{key}: rank {inner.shape[0]}, but the code has {_RANK}")
        weight = named[f"{place}.weight"]
        added = (outer.flatten(1) @ inner.flatten(1)).reshape(weight.shape)
        named[f"{place}.weight"] = weight.float() + _SCALE * added
    return named, []


def read_settings(state: Mapping[str, Tensor]) -> VitSettings:
    """Returns what network a checkpoint is of, by the names and shapes of its weights.

    Raises:
        KeyError: it has not the first or last convolution of such a network.
    """
    first, last = state["encoder.patch_embed.proj.weight"], state["final_conv.weight"]
    return VitSettings(
        kind="vit",
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        width=first.shape[0],
        patch=first.shape[2],
        grid=math.isqrt(state["encoder.pos_embed"].shape[1] - 1),
        hidden=state["encoder.blocks.0.mlp.fc1.weight"].shape[0],
    )
