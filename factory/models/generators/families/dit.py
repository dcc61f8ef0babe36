"""`dit`: class-conditional diffusion transformers, with a null class for any number of classes."""

from typing import Any

from factory.core.errors import InputError
from factory.models.generators.families.pipeline import ClassFamily

_NULL_LABEL = 1000  # hard-coded in DiTPipeline.__call__; huggingface/diffusers issue 13616


class DiTFamily(ClassFamily):
    """DiT (Peebles & Xie 2023, arXiv 2212.09748)."""

    kind = "dit"
    pipelines = ("diffusers:DiTPipeline",)
    guidance = "call"
    null_condition = "extra class embedding"
    steps = 50
    scale = 4.0
    sized = False

    def prepare(self, pipeline: Any) -> None:
        """Makes classifier-free guidance use the model's own null class.

        `DiTPipeline` sends label 1000 for the null class. The embedding table of a model with n
        classes has its null class at row n (Peebles & Xie 2023, appendix A), so the label is
        replaced on its way into the transformer.

        Raises:
            InputError: more than 1000 classes, where label 1000 is a class too.
        """
        transformer = pipeline.transformer
        classes = int(transformer.config.num_embeds_ada_norm)
        if classes == _NULL_LABEL:
            return
        if classes > _NULL_LABEL:
            raise InputError(
                f"DiTPipeline: {classes} classes: it takes label {_NULL_LABEL} for the null class, "
                f"so models with more than {_NULL_LABEL} classes cannot be sampled"
            )

        def replace_label(
            _module: Any, inputs: tuple[Any, ...], arguments: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            labels = arguments["class_labels"]
            arguments["class_labels"] = labels.masked_fill(labels == _NULL_LABEL, classes)
            return inputs, arguments

        transformer.register_forward_pre_hook(replace_label, with_kwargs=True)
