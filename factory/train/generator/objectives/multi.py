"""The objective of transformers of parallel streams: LoRA, and features that are each class."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from factory.core.errors import InputError
from factory.train.adapter.settings import AdapterSettings
from factory.train.generator.objectives.base import Subject
from factory.train.generator.objectives.flow import FlowObjective


class MultiObjective(FlowObjective):
    """`MultiPipeline`: as `FlowObjective`, with classes in the stream `embedding`.

    A class is a token of features, which starts at the mean of what the model's encoder sees in the
    class's shots: the network learned to follow such tokens and needs no new part.
    """

    attention: ClassVar[tuple[str, ...]] = ("to_qkv", "to_out", "cross_q", "cross_out")

    def __init__(self, subject: Subject) -> None:
        pipeline = subject.generator.model.pipeline
        if not pipeline.class_width or not pipeline.config.encoder:
            raise InputError(
                f"model {subject.settings.base}: was trained without embeddings, which classes of "
                "an adapter are made of: take another base"
            )
        super().__init__(subject)

    def _predict(
        self, noisy: torch.Tensor, sigma: torch.Tensor, labels: Sequence[int]
    ) -> torch.Tensor:
        streams = self._pipeline.encode_streams(class_labels=labels)
        velocity: torch.Tensor = self._pipeline.predict_velocity(noisy, sigma, streams)
        return velocity

    @torch.no_grad()
    def _start_classes(
        self, settings: AdapterSettings, shots: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Returns (classes, dim): the mean features of the shots."""
        family = self._generator.family
        encoder = family.session.encoders.load(self._pipeline.config.encoder, family.base)
        rows = []
        for name in self._names:
            pixels = ((shots[name] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            rows.append(torch.from_numpy(encoder.encode(np.ascontiguousarray(pixels)).mean(0)))
        return torch.stack(rows)
