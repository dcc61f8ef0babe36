"""`pixcell`: declared, not sampled: it needs UNI2-h embeddings, which no condition kind gives."""

from collections.abc import Mapping
from typing import Any

from factory.models.generators.families.pipeline import PipelineFamily


class PixCellFamily(PipelineFamily):
    """PixCell: a diffusion transformer of UNI2-h embeddings."""

    kind = "pixcell"
    pipelines = ("diffusers:DiffusionPipeline",)
    required = frozenset({"embedding"})
    guidance = "call"
    null_condition = "learned embedding"
    steps = 20
    scale = 2.0
    lacking = (
        "needs image embeddings (stream `embedding`), which no condition kind gives yet: "
        "take a text or class model"
    )

    @classmethod
    def reads(cls, index: Mapping[str, Any]) -> bool:
        """Its pipeline is code of its repository, without a class of its own."""
        return False
