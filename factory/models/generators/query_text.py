"""`QueryTextEncoder`: captions as what learned queries read of a frozen language model."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from factory.core.errors import InputError


class QueryTextEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Appends learned queries to a caption, and projects their last hidden states.

    As in UniPath, whose queries read a frozen Qwen2.5-VL: the language model stays as it is, and
    the queries learn what of it the generator needs. It is saved with them, so that a generator
    needs no other folder. A query stands behind the caption's own tokens whatever the padding.

    Args:
        language_config: of the language model, as JSON with `model_type`.
        count: of the queries, the tokens that the generator gets of a caption.
        text_dim: width of these tokens.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, language_config: str, count: int = 16, text_dim: int = 128) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(**json.loads(language_config))
        self.language_model = AutoModel.from_config(config).requires_grad_(False).eval()
        width = int(self.language_model.get_input_embeddings().weight.shape[1])
        self.queries = nn.Parameter(torch.randn(count, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, text_dim)

    @classmethod
    def of(cls, language_model: Any, queries: int, text_dim: int) -> "QueryTextEncoder":
        """Returns untrained queries of a language model, whose weights are taken."""
        config = language_model.config.to_diff_dict()
        config["model_type"] = language_model.config.model_type
        text = json.dumps(config, default=str, sort_keys=True)
        found: QueryTextEncoder = cls(text, queries, text_dim)
        found.language_model.load_state_dict(language_model.state_dict())
        return found

    def train(self, mode: bool = True) -> "QueryTextEncoder":
        """Sets the mode of what is learned; the language model never drops anything out."""
        super().train(mode)
        self.language_model.eval()
        return self

    def encode_captions(
        self, tokens: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what the queries read, and which rows have a caption at all.

        Args:
            tokens: (N, T) ids, padded at the right.
            mask: (N, T) of the tokens that count; a row of zeros is no caption.

        Returns:
            (N, queries, text_dim) features and (N, queries) bool.
        """
        count, given = len(self.queries), mask.bool().any(1)
        seen = mask.long().clone()
        seen[:, 0] = 1  # a softmax over nothing is NaN, also where nobody reads it
        words = self.language_model.get_input_embeddings()(tokens)
        asked = self.queries.to(words.dtype).expand(len(tokens), -1, -1)
        places = torch.arange(count, device=tokens.device) + seen.sum(1, keepdim=True)
        hidden = self.language_model(
            inputs_embeds=torch.cat([words, asked], 1),
            attention_mask=torch.cat([seen, seen.new_ones(len(tokens), count)], 1),
            position_ids=torch.cat([(seen.cumsum(1) - 1).clamp(min=0), places], 1),
        ).last_hidden_state[:, -count:]
        read = self.project(self.norm(hidden))
        return read, given.unsqueeze(1).expand(-1, count)


def encode_tokens(
    encoder: Any, tokens: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (N, T, dim) features of captions and the (N, T) bool mask of those that count.

    Args:
        encoder: one with `encode_captions`, or a text model of transformers.
        tokens: (N, T) ids.
        mask: (N, T) of the tokens that count.
    """
    own = getattr(encoder, "encode_captions", None)
    if own is not None:
        return own(tokens, mask)  # type: ignore[no-any-return]
    return encoder(tokens).last_hidden_state, mask.bool()


def load_language_model(folder: Path, places: int) -> tuple[Any, Any]:
    """Returns tokenizer and language model of a folder of transformers; nothing is fetched.

    Args:
        folder: with config, tokenizer and safetensors.
        places: tokens and queries that it must take.

    Raises:
        InputError: it cannot be loaded, or takes no embeddings, positions or so many places.
    """
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise InputError(f"network.text.encoder: {folder}: no folder with a config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"network.text.encoder: {folder}: cannot be loaded: {error}") from error
    takes = inspect.signature(model.forward).parameters
    lacks = [name for name in ("inputs_embeds", "position_ids") if name not in takes]
    if lacks or model.config.is_encoder_decoder:
        raise InputError(
            f"network.text.encoder: {folder}: {type(model).__name__} takes no "
            f"{lacks[0] if lacks else 'prompt alone'}: take a language model such as Qwen2 or GPT-2"
        )
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and most < places:
        raise InputError(
            f"network.text.encoder: {folder}: has {most} places, {places} are needed: lower queries"
        )
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.eval()
