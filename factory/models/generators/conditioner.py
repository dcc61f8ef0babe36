"""`Conditioner`: class, caption and reference, any subset of them, as one vector for a UNet."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

REFERENCE_SIZE = 48
"""px, height and width at which a reference image is read: enough for stain and nuclei."""

_REFERENCE_CHANNELS = (32, 64, 128)


class Conditioner(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Turns the condition streams of `FlowPipeline` into the vector that its UNet is given.

    Each stream is projected to `dim` and the given ones are added, or averaged; a stream that is
    missing adds nothing, so all of them missing is the null condition of classifier-free guidance.
    A small network then mixes the result. The reference encoder is trained with the generator (as
    in the semantic encoder of diffusion autoencoders, Preechakul et al. 2022, arXiv 2111.15640): it
    pools over the whole image, so it tells what is seen, not where.

    Args:
        dim: width of the vector.
        classes: number of class embeddings; 0 for a model without classes.
        text_dim: width of a caption's features; 0 for a model without captions.
        reference_dim: width of a reference's features; 0 for a model without references.
        average: take the mean of the given streams. A sum is larger where two say the same, so a
            network that is shown both learns to hear each of them less.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        dim: int = 256,
        classes: int = 0,
        text_dim: int = 0,
        reference_dim: int = 0,
        average: bool = False,
    ) -> None:
        super().__init__()
        self.class_embedding = nn.Embedding(classes, dim) if classes else None
        self.text_projection = nn.Linear(text_dim, dim, bias=False) if text_dim else None
        self.reference_projection = None
        if reference_dim:
            layers: list[nn.Module] = []
            depth = 3
            for channels in _REFERENCE_CHANNELS:
                layers += [
                    nn.Conv2d(depth, channels, 3, stride=2, padding=1),
                    nn.GroupNorm(8, channels),
                    nn.SiLU(),
                ]
                depth = channels
            self.reference_encoder = nn.Sequential(*layers, nn.Conv2d(depth, depth, 3, padding=1))
            self.reference_features = nn.Linear(2 * depth, reference_dim)
            self.reference_projection = nn.Linear(reference_dim, dim, bias=False)
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def encode_reference(self, images: torch.Tensor) -> torch.Tensor:
        """Returns (N, reference_dim) features of (N, 3, H, W) images in [-1, 1].

        Their mean square is 1, so that the noise added to them in training has a known weight.
        """
        small = functional.interpolate(
            images, (REFERENCE_SIZE, REFERENCE_SIZE), mode="bilinear", antialias=True
        )
        maps = self.reference_encoder(small.to(self.reference_features.weight.dtype))
        pooled = torch.cat([maps.mean((2, 3)), functional.silu(maps).mean((2, 3))], 1)
        features: torch.Tensor = self.reference_features(pooled)
        return features * torch.rsqrt(features.float().square().mean(1, keepdim=True) + 1e-6)

    def forward(
        self,
        count: int,
        class_labels: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        reference: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the (count, dim) condition vectors.

        Args:
            count: N, of the batch.
            class_labels: (N,) indices of class embeddings; a negative one is no class.
            text: (N, text_dim) caption features; zeros are no caption.
            reference: (N, reference_dim) features; zeros are no reference.
        """
        like: Any = self.mix[0].weight
        total = torch.zeros(count, self.config.dim, dtype=like.dtype, device=like.device)
        streams = torch.zeros(count, 1, dtype=like.dtype, device=like.device)
        if class_labels is not None and self.class_embedding is not None:
            given = (class_labels >= 0).unsqueeze(1)
            total = total + self.class_embedding(class_labels.clamp(min=0)) * given
            streams = streams + given
        if text is not None and self.text_projection is not None:
            total = total + self.text_projection(text.to(like.dtype))
            streams = streams + text.any(1, keepdim=True)
        if reference is not None and self.reference_projection is not None:
            total = total + self.reference_projection(reference.to(like.dtype))
            streams = streams + reference.any(1, keepdim=True)
        if self.config.average:
            total = total / streams.clamp(min=1)
        mixed: torch.Tensor = total + self.mix(total)
        return mixed
