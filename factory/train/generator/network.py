"""The networks of a flow model: built from a recipe, taken from a checkpoint, exported."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import nn

from factory.core.errors import InputError
from factory.core.plain import write_json
from factory.models.generators.conditioner import Conditioner
from factory.models.generators.families.flow import FlowFamily
from factory.models.generators.flow import FlowPipeline, apply_network
from factory.models.generators.sampling import build_scheduler
from factory.models.generators.settings import GeneratorSettings
from factory.models.generators.straight import TEXT_TOKENS
from factory.train.generator.settings import NetworkSettings


class Denoiser(nn.Module):
    """All that is trained, under one roof: UNet, conditioner and caption encoder."""

    def __init__(
        self, unet: UNet2DModel, conditioner: Conditioner, text_encoder: Any, data_std: float
    ) -> None:
        super().__init__()
        self.data_std = data_std
        self.unet = unet
        self.conditioner = conditioner
        self.text_encoder = text_encoder

    def forward(
        self,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        labels: torch.Tensor,
        tokens: torch.Tensor | None,
        mask: torch.Tensor | None,
        reference: torch.Tensor | None,
        blur: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns the predicted velocity.

        Args:
            noisy: (B, C, h, w).
            sigma: (B,) in (0, 1).
            labels: (B,) class indices, -1 for none.
            tokens: (B, T) caption tokens, or None.
            mask: (B, T) of the tokens that count; a row of zeros is no caption.
            reference: (B, 3, S, S) other views of the images in [-1, 1], or None.
            blur: (B, reference_dim + 1): noise on the reference's features, and in the last column
                0 where there is no reference.
        """
        text = features = None
        if tokens is not None and mask is not None:
            text = self.encode_text(tokens, mask)
        if reference is not None and blur is not None:
            seen = self.conditioner.encode_reference(reference)
            features = (seen + blur[:, :-1]) * blur[:, -1:]
        vector = self.conditioner(len(noisy), labels, text, features)
        return apply_network(self.unet, noisy, sigma, vector, self.data_std)

    def encode_text(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns (B, text_dim): the mean over the tokens that count, zeros without any."""
        hidden = self.text_encoder(tokens).last_hidden_state
        weights = mask.to(hidden.dtype).unsqueeze(2)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)  # type: ignore[no-any-return]


def build_denoiser(
    settings: NetworkSettings, image_size: int, classes: int, tokenizer: Any, latent: Any
) -> Denoiser:
    """Builds untrained networks.

    Args:
        settings: widths and depths.
        image_size: px.
        classes: number of class embeddings.
        tokenizer: of the captions, or None for a model without.
        latent: (channels, factor) of the autoencoder, or None for pixels.
    """
    down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention)
    up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention))
    depth, factor = latent or (3 * settings.fold**2, settings.fold)
    if image_size % factor:
        raise InputError(f"data.image_size: {image_size} px is no multiple of {factor}: change it")
    unet = UNet2DModel(
        sample_size=image_size // factor,
        in_channels=depth,
        out_channels=depth,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=settings.norm_groups,
        attn_norm_num_groups=settings.norm_groups,
        # What is added before a group norm is partly taken away by it, so conditions scale and
        # shift after it (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3).
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=32,
        class_embed_type="identity",
    )
    conditioner = Conditioner(
        dim=4 * settings.channels[0],
        classes=classes,
        text_dim=settings.text_dim if tokenizer is not None else 0,
        reference_dim=settings.reference_dim,
        average=settings.average_streams,
    )
    text_encoder = build_text_encoder(settings.text_dim, settings.text_layers, tokenizer)
    return Denoiser(unet, conditioner, text_encoder, settings.data_std)


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Fits a lower-case byte-pair tokenizer (Sennrich et al. 2016, arXiv 1508.07909) on texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<start>", "<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=TEXT_TOKENS,
    )


def build_text_encoder(dim: int, layers: int, tokenizer: Any) -> Any:
    """Builds an untrained `CLIPTextModel` of captions; None without a tokenizer."""
    if tokenizer is None:
        return None
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=layers,
        num_attention_heads=max(1, dim // 32),
        max_position_embeddings=TEXT_TOKENS,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=dim,
    )
    return CLIPTextModel(config)


def start_from(denoiser: Denoiser, class_names: tuple[str, ...], start: FlowPipeline) -> None:
    """Copies a trained pipeline's weights; class embeddings follow their names, new ones stay new.

    Raises:
        InputError: the networks do not have the same shape.
    """
    parts = {
        "unet": (denoiser.unet, start.unet),
        "text_encoder": (denoiser.text_encoder, start.text_encoder),
        "conditioner": (denoiser.conditioner, start.conditioner),
    }
    for name, (mine, theirs) in parts.items():
        if mine is None or theirs is None:
            continue
        if name == "unet" and mine.config.norm_num_groups != theirs.config.norm_num_groups:
            raise InputError(
                f"init: the model has {theirs.config.norm_num_groups} groups a norm, "
                f"network.norm_groups is {mine.config.norm_num_groups}: give the model's"
            )
        copy_weights(
            name, mine, theirs, {"class_embedding.weight": (class_names, start.class_names)}
        )


def copy_weights(
    part: str,
    mine: nn.Module,
    theirs: nn.Module,
    named: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> None:
    """Copies the weights of a trained network; what only `mine` has stays as it is.

    Args:
        part: what messages call it.
        mine: gets them.
        theirs: trained.
        named: key -> names of the first axis of mine and of theirs, such as classes; what has the
            same name is copied. Where either has no name, nothing is.

    Raises:
        InputError: weights of theirs that mine has not, or in another shape.
    """
    # What a file lacks stands there without data.
    held = {key: value for key, value in theirs.state_dict().items() if not value.is_meta}
    own, state = mine.state_dict(), held
    for key, (here, there) in named.items():
        trained = state.pop(key, None)
        if trained is None or key not in own:
            continue
        rows = own[key].clone()
        for position, each in enumerate(here):
            if each in there:
                rows[position] = trained[list(there).index(each)]
        state[key] = rows
    wrong = [key for key, each in state.items() if key not in own or own[key].shape != each.shape]
    if wrong:
        raise InputError(
            f"init: {part}.{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, the recipe's "
            "network another: give the network settings of the model to go on from"
        )
    mine.load_state_dict({**own, **{key: value.float() for key, value in state.items()}})


def build_flow_scheduler(name: str) -> Any:
    """Returns a scheduler of flow velocities by its diffusers name."""
    family = FlowFamily(GeneratorSettings(model=FlowFamily.kind))
    return build_scheduler(name, FlowMatchEulerDiscreteScheduler(), family)


def save_pipeline(pipeline: Any, out: Path) -> None:
    """Writes a pipeline folder with safetensors, which names no place and loads anywhere."""
    pipeline.save_pretrained(out, safe_serialization=True)
    index = out / "model_index.json"
    described = json.loads(index.read_text(encoding="utf-8"))
    if pipeline.tokenizer is not None:
        # transformers 5 writes a name that 4 does not know; both know this.
        described["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    described.pop("_name_or_path", None)
    index.write_text(write_json(described, indent=2) + "\n", encoding="utf-8")
