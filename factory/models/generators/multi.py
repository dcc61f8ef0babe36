"""`MultiPipeline`: images from any subset of class, caption, embedding, vector, mask and scale."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from factory.models.generators.guiders import GuiderSettings, Predictions
from factory.models.generators.multi_guidance import StreamScale, plan_predictions
from factory.models.generators.multi_network import MultiTransformer, apply_transformer
from factory.models.generators.multi_streams import Rows, Streams, pad_tokens, stack_maps
from factory.models.generators.pausing import Pause
from factory.models.generators.query_text import encode_tokens
from factory.models.generators.straight import (
    TEXT_TOKENS,
    Guide,
    Predict,
    StraightPipeline,
    check_labels,
    check_strength,
    stack_images,
)


class MultiPipeline(StraightPipeline):
    """Samples the straight path of `FlowPipeline` with a transformer of parallel streams.

    Each image has the streams that it is given; what it lacks adds nothing, and a batch may mix
    rows of different streams.

    Args:
        transformer: predicts the image, or the velocity.
        scheduler: a scheduler that steps flow velocities and has `sigmas`.
        text_encoder: `CLIPTextModel` or `QueryTextEncoder` of the captions, or None.
        tokenizer: its tokenizer, or None.
        vae: `AutoencoderKL` of a latent model, or None for pixels.
        class_names: the classes in the order of their embeddings, comma-separated.
        fold: pixel-unshuffle factor of a model without `vae`.
        data_std: standard deviation of what the network models.
        prediction: what the network predicts; `image` after JiT (Li & He 2025, arXiv 2511.13720).
        encoder: id of the image encoder whose features are the stream `embedding`, or empty.
        mpp: µm per pixel of the training images, where they share one.
    """

    network_name = "transformer"
    classes_name = "transformer.class_features"
    classes_count = "feature_classes"

    def __init__(
        self,
        transformer: MultiTransformer,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        vae: Any = None,
        class_names: str = "",
        fold: int = 4,
        data_std: float = 0.5,
        prediction: str = "image",
        encoder: str = "",
        mpp: float | None = None,
    ) -> None:
        super().__init__(scheduler, text_encoder, tokenizer, vae)
        self.register_modules(transformer=transformer)
        self.register_to_config(class_names=class_names, fold=fold, data_std=data_std, mpp=mpp)
        self.register_to_config(prediction=prediction, encoder=encoder)

    @property
    def class_width(self) -> int:
        """Numbers of a class that an adapter adds: features, as an image's."""
        return int(self.transformer.config.embedding_dim)

    @property
    def sees_looks(self) -> bool:
        """Whether features of an image encoder tell it a look."""
        return bool(self.config.encoder)

    @property
    def vector_names(self) -> tuple[str, ...]:
        """The named values of the stream `vector`, in order."""
        return tuple(name for name in self.transformer.config.vector_names.split(",") if name)

    @property
    def control_labels(self) -> tuple[str, ...]:
        """What masks may show: label k of a map is the k-th, counted from 1."""
        return tuple(name for name in self.transformer.config.control_labels.split(",") if name)

    @torch.no_grad()
    def __call__(
        self,
        image: NDArray[np.uint8] | Sequence[Image.Image] | None = None,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 12,
        guidance_scale: float = 1.0,
        stream_guidance: Mapping[str, Mapping[str, float]] | None = None,
        generator: Sequence[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        guide: Guide | None = None,
        guide_scale: float = 1.0,
        pause: Pause | None = None,
        guider: GuiderSettings | None = None,
        **streams: Any,
    ) -> Any:
        """Samples one image for each condition; give at least one stream, or `image`.

        Args:
            image: N images of the size asked for, where the path starts if `strength` is below 1.
            strength: share of the path that is run again for `image`, in (0, 1].
            height: px, a multiple of a token's side; None: `image_size`.
            width: likewise.
            num_inference_steps: scheduler steps of the whole path.
            guidance_scale: of streams without one of their own; 1 follows them as they are.
            stream_guidance: stream -> `scale`, and `low` and `high` share of noise between which
                it holds; see `plan_predictions`.
            generator: one for each image, or one for all.
            output_type: as in `FlowPipeline`, and so are the next four.
            return_dict: see there.
            callback_on_step_end: see there.
            guide: see there.
            guide_scale: see there.
            pause: see there.
            guider: see there.
            **streams: the arguments of `encode_streams`.

        Raises:
            ValueError: a value out of range, streams of different lengths or none, or a stream that
                the model was not trained with.
        """
        count, size = self._check(image, strength, streams), self._choose_size(height, width)
        self._guidance_scale, self._guider = guidance_scale, guider
        first = self._choose_first(num_inference_steps, 1.0 if image is None else strength)
        held = self.encode_streams(**streams)
        own = self._read_scales(stream_guidance or {})
        pixels = None if image is None else stack_images(image).to(self._execution_device)
        start = self._begin(
            (count, self.transformer.config.in_channels, *size), generator, pixels, first, pause
        )

        def predict(sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return self._guide_streams(sample, sigma, held, own)

        asked = None if guide is None else partial(self._ask, guide, guide_scale)
        sample = self._walk(start, first, predict, asked, callback_on_step_end, pause)
        return self._to_output(sample, output_type, return_dict)

    def build_predict(self, count: int, guidance_scale: float, **streams: Any) -> Predict:
        """Returns what predicts the velocity under the arguments of `encode_streams`.

        Raises:
            ValueError: as `__call__`.
        """
        told = dict(streams)
        own = self._read_scales(told.pop("stream_guidance", None) or {})
        self._guider = told.pop("guider", None)
        if guidance_scale == 1.0:  # without any guidance
            own = {}
        self._check([None] * count, 1.0, told)
        self._guidance_scale = guidance_scale
        held = self.encode_streams(**told)
        return lambda sample, sigma: self._guide_streams(sample, sigma, held, own)

    def _check(self, image: Any, strength: float, streams: Mapping[str, Any]) -> int:
        """Returns the number of images asked for."""
        given = [image, *streams.values()]
        counts = {len(stream) for stream in given if stream is not None}
        if len(counts) != 1:
            raise ValueError(f"give at least one stream, all equally many, got {counts}")
        check_labels(streams.get("class_labels"), len(self.class_names))
        check_strength(strength)
        return counts.pop()

    def _read_scales(self, given: Mapping[str, Mapping[str, float]]) -> dict[str, StreamScale]:
        known = self.transformer.stream_names
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"stream_guidance: no stream {unknown[0]!r}, only {', '.join(known)}")
        return {name: StreamScale(**each) for name, each in given.items()}

    def _guide_streams(
        self,
        sample: torch.Tensor,
        sigma: torch.Tensor,
        streams: Streams,
        own: Mapping[str, StreamScale],
    ) -> torch.Tensor:
        """Returns the guided velocity.

        The plan is the same whatever streams a batch has, so that its rows do not matter to each
        other; what its rows lack is not predicted twice, unless a cache follows each prediction.
        """
        names, present = self.transformer.stream_names, frozenset(streams.names)
        found: dict[frozenset[str], torch.Tensor] = {}
        told: dict[frozenset[str], tuple[torch.Tensor | None, float]] = {}
        total: Any = 0.0
        for shown, weight in plan_predictions(names, self._guidance_scale, own, float(sigma)):
            seen = shown & present
            key = shown if self.transformer.is_cache_enabled else seen
            if key not in found:
                with self.transformer.cache_context(",".join(sorted(shown))):
                    found[key] = self.predict_velocity(sample, sigma, streams.keep(seen))
            total = total + weight * found[key]
            told[shown] = found[key], weight
        if self._guider is None:
            return total  # type: ignore[no-any-return]
        bound, _ = told.get(frozenset(names), (None, 0.0))
        free, weight = told.get(frozenset(), (None, 0.0))
        guided = self._guider.guide(Predictions(total, bound, free, weight, sample, sigma))
        return guided  # type: ignore[no-any-return]

    def predict_velocity(
        self, sample: torch.Tensor, sigma: torch.Tensor, streams: Streams
    ) -> torch.Tensor:
        """Returns the velocity at a sample under streams, float32."""
        config = self.config
        velocity, _ = apply_transformer(
            self.transformer, sample, sigma.expand(len(sample)), streams,
            config.data_std, config.prediction,
        )  # fmt: skip
        return velocity

    def encode_streams(
        self,
        class_labels: Sequence[int] | None = None,
        prompt: Sequence[str] | None = None,
        image_embeds: Sequence[Rows | None] | None = None,
        vector: Rows | None = None,
        control_maps: Sequence[Rows | None] | None = None,
        mpp: Sequence[float | None] | None = None,
    ) -> Streams:
        """Returns what the network is given, on its device.

        Args:
            class_labels: (N,) indices into `class_names`; `len(class_names)` or -1 is no class.
            prompt: N captions; an empty one is no caption.
            image_embeds: N times (tokens, dim) features of `encoder`, or None.
            vector: (N, V) values of `vector_names`, NaN where one is not known.
            control_maps: N times (height, width) maps of 0 or k for the k-th label, or None.
            mpp: N times µm per pixel, or None.

        Raises:
            ValueError: an array of another width, or a stream that the model lacks.
        """
        found: dict[str, Any] = {}
        trained = int(self.transformer.config.classes)
        if class_labels is not None and trained:
            found["class_name"] = torch.tensor([x if x < trained else -1 for x in class_labels])
        if prompt is not None and any(each.strip() for each in prompt):
            if self.text_encoder is None:
                raise ValueError("this model was trained without captions: leave prompt out")
            found["caption"], found["caption_mask"] = self._encode_text(prompt)
        if image_embeds is not None:
            width = self.transformer.config.embedding_dim
            found["embedding"], found["embedding_mask"] = pad_tokens(image_embeds, width)
        if vector is not None:
            values = np.asarray(vector, np.float32)
            if values.shape[1:] != (len(self.vector_names),):
                raise ValueError(
                    f"vector must be (N, {len(self.vector_names)}), got {values.shape}"
                )
            found["vector"] = torch.from_numpy(values)
        if control_maps is not None and any(each is not None for each in control_maps):
            found["control"] = stack_maps(control_maps, len(self.control_labels))
        if mpp is not None:
            found["scale"] = torch.tensor([np.nan if each is None else each for each in mpp])
        streams = Streams(**found).to(self._execution_device)
        added = [x - trained if x >= trained else -1 for x in class_labels or ()]
        streams = streams if self.class_table is None else self._add_classes(streams, added)
        return self._foretell(streams)

    def _foretell(self, streams: Streams) -> Streams:
        """Returns the streams with the features to expect of named values, where none are given.

        As unCLIP's prior tells an image's of a text (Ramesh et al. 2022, arXiv 2204.06125).
        """
        known, network = streams.present("vector"), self.transformer
        if known is None or not network.config.foretells:
            return streams
        return _add_features(streams, network.foretell(streams.vector), known)

    def _add_classes(self, streams: Streams, added: Sequence[int]) -> Streams:
        """Returns the streams with the features of added classes where no embedding is given."""
        table: Any = self.class_table
        rows = torch.tensor(added, device=table.weight.device)
        is_class = (rows >= 0) & (rows < table.num_embeddings)
        if not bool(is_class.any()):
            return streams
        features = table(rows.clamp(0, table.num_embeddings - 1)).float()
        return _add_features(streams, features, is_class)

    def _encode_text(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns features and mask of TEXT_TOKENS tokens, so that no other prompt matters."""
        tokens = self.tokenizer(
            [prompt.lower().strip() for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=TEXT_TOKENS,
            return_tensors="pt",
        )
        device = self.text_encoder.device
        given = torch.tensor([bool(prompt.strip()) for prompt in prompts]).unsqueeze(1)
        mask = tokens["attention_mask"].bool() & given
        return encode_tokens(self.text_encoder, tokens["input_ids"].to(device), mask.to(device))

    def _choose_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Returns the places of a column and of a row."""
        factor = self.pixel_factor
        size = height or self.image_size, width or self.image_size
        token = factor * int(self.transformer.config.merge)
        if any(side % token for side in size):
            raise ValueError(f"height and width must be multiples of {token} px, got {size}")
        return size[0] // factor, size[1] // factor


def _add_features(streams: Streams, features: torch.Tensor, rows: torch.Tensor) -> Streams:
    """Returns the streams with (N, D) features as embeddings of (N,) rows that have none."""
    tokens, mask = features.unsqueeze(1), rows.unsqueeze(1)
    if streams.embedding is not None and streams.embedding_mask is not None:
        lacks = rows & ~streams.embedding_mask.any(1)
        tokens, mask = streams.embedding.clone(), streams.embedding_mask.clone()
        tokens[lacks, 0], mask[lacks, 0] = features[lacks].to(tokens), True
    return replace(streams, embedding=tokens, embedding_mask=mask)
