"""Parts of tiny pipelines by their class: `parts.yaml` says how small, this how they are built."""

import functools
import re
import string
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
ALIASES = {
    "T5TokenizerFast": "T5Tokenizer",
    "GemmaTokenizer": "PreTrainedTokenizerFast",
    "LlamaTokenizer": "PreTrainedTokenizerFast",
    "XLMRobertaTokenizer": "PreTrainedTokenizerFast",
    "PreTrainedTokenizer": "PreTrainedTokenizerFast",
    "TokenizersBackend": "PreTrainedTokenizerFast",
    "PythonBackend": "BertTokenizer",
    "Qwen2TokenizerFast": "Qwen2Tokenizer",
}


def is_known(name: str) -> bool:
    return ALIASES.get(name, name) in SPECIAL or name in TABLE


def make(name: str, pipeline: str = "", **changes: Any) -> Any:
    """Makes a part of a class as the pipeline that is named takes it."""
    special = SPECIAL.get(ALIASES.get(name, name))
    return special(pipeline, **changes) if special else configure(name, pipeline, **changes)


def configure(name: str, pipeline: str = "", **changes: Any) -> Any:
    """Builds a class by its row of the table."""
    settings = dict(TABLE.get(name, {}))
    for pattern, others in settings.pop("where", {}).items():
        if re.search(pattern, pipeline):
            settings |= others
    kind = find_class(settings.pop("class", name), settings.pop("of", ""))
    settings |= changes
    if config := getattr(kind, "config_class", None):
        return kind(config(**settings))
    return kind(**settings)


def find_class(name: str, module: str = "") -> Any:
    """A class of diffusers, of one of its modules, or of transformers."""
    import diffusers
    import transformers

    place = import_module(f"diffusers.{module}") if module else diffusers
    return getattr(place, name, None) or getattr(transformers, name)


# --- tokenizers and processors --------------------------------------------------------------------


def clip_tokenizer(pipeline: str = "") -> Any:
    from transformers import CLIPTokenizer

    characters = [chr(code) for code in range(33, 127)]
    pieces = [*characters, *(f"{character}</w>" for character in characters)]
    vocab = {piece: row for row, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    # vocab=, not vocab_file=: transformers 5 makes a vocabulary of two tokens of files.
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="<|endoftext|>")


def t5_tokenizer(pipeline: str = "") -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [(character, -3.0) for character in string.printable.strip()]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0, model_max_length=77)


@functools.cache
def qwen_tokenizer(pipeline: str = "") -> Any:
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    marks = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad")
    words = [*sorted(ByteLevel.alphabet()), *(f"<|{mark}|>" for mark in (*marks, "video_pad"))]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={word: row for row, word in enumerate(words)}, merges=[]
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [f"<|{mark}|>" for mark in (*marks, "video_pad")]}
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{m.role}}\n{% if m.content is string %}{{m.content}}"
        "{% else %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{c.text}}{% endif %}{% endfor %}"
        "{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


@functools.cache
def plain_tokenizer(pipeline: str = "") -> Any:
    """One token a character, as Gemma, Llama and the like are loaded."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<cls>", "<sep>", "<mask>")
    words = {word: row for row, word in enumerate([*special, *string.printable])}
    inner = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    named = {f"{word.strip('<>')}_token": word for word in special}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=512, **named)


def bert_tokenizer(pipeline: str = "") -> Any:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    return BertTokenizer(vocab={word: row for row, word in enumerate(words)}, model_max_length=77)


def auto_tokenizer(pipeline: str) -> Any:
    return plain_tokenizer() if re.search("^(CogView|Ernie)", pipeline) else qwen_tokenizer()


def processor(name: str) -> Callable[[str], Any]:
    """A processor of images and texts for a vision-language model, `Qwen2VL` or `Qwen3VL`."""

    def make_processor(pipeline: str) -> Any:
        import transformers

        size = 4 * 28 * 28
        return getattr(transformers, f"{name}Processor")(
            image_processor=transformers.Qwen2VLImageProcessor(
                patch_size=14, min_pixels=size, max_pixels=size
            ),
            tokenizer=qwen_tokenizer(),
            video_processor=getattr(transformers, f"{name}VideoProcessor")(),
            chat_template=qwen_tokenizer().chat_template,
        )

    return make_processor


def chat_processor(pipeline: str) -> Any:
    """A processor of texts and images with a template of conversations."""
    from transformers import PixtralImageProcessor, PixtralProcessor

    tokenizer = qwen_tokenizer()
    return PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 32}, patch_size=4),
        tokenizer,
        patch_size=4,
        image_token="<|image_pad|>",
        image_break_token="<|vision_start|>",
        image_end_token="<|vision_end|>",
        chat_template=tokenizer.chat_template,
    )


# --- models that are more than their configuration ------------------------------------------------


def t5_gemma(pipeline: str) -> Any:
    both = configure("T5GemmaConfig")
    found = find_class("T5GemmaEncoder", "pipelines.prx.pipeline_prx")(both.encoder)
    found.config = both  # saved as trained ones are
    return found


def kl_vae(pipeline: str = "", **changes: Any) -> Any:
    vae = configure("AutoencoderKL", pipeline, **changes)
    if len(vae.config.block_out_channels) > 2:
        return vae
    # A trained encoder is sure of its latents; a random one would drown them in its own noise.
    last = vae.quant_conv if vae.quant_conv is not None else vae.encoder.conv_out
    channels = vae.config.latent_channels
    with torch.no_grad():
        last.weight[channels:], last.bias[channels:] = 0.0, -20.0
    return vae


def wan_vae(pipeline: str) -> Any:
    vae = configure("AutoencoderKLWan", pipeline)
    is_fibo = "Fibo" in pipeline
    with torch.no_grad():  # a random autoencoder hardly sees its image
        vae.quant_conv.weight *= 5.0 if is_fibo or "JoyImageEditPipe" in pipeline else 20.0
        vae.post_quant_conv.weight *= 5.0 if is_fibo else 1.0
    return vae


def unet(pipeline: str = "", **changes: Any) -> Any:
    """A denoiser with weights under which a hint outlives its eight convolutions.

    Under torch's own a black and a white one differ by 1e-4 behind them: by no pixel of an image.
    """
    built = configure("UNet2DConditionModel", pipeline, **changes)
    if built.config.addition_embed_type == "image_hint":
        for layer in built.add_embedding.input_hint_block:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    return built


def z_image(pipeline: str) -> Any:
    transformer = configure("ZImageTransformer2DModel", pipeline)
    with torch.no_grad():
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    return transformer


SPECIAL: dict[str, Callable[..., Any]] = {
    "CLIPTokenizer": clip_tokenizer,
    "T5Tokenizer": t5_tokenizer,
    "PreTrainedTokenizerFast": plain_tokenizer,
    "ByT5Tokenizer": lambda pipeline: find_class("ByT5Tokenizer")(),
    "BertTokenizer": bert_tokenizer,
    "Qwen2Tokenizer": qwen_tokenizer,
    "AutoTokenizer": auto_tokenizer,
    "Qwen2VLProcessor": processor("Qwen2VL"),
    "Qwen3VLProcessor": processor("Qwen3VL"),
    "AutoProcessor": chat_processor,
    "T5GemmaEncoder": t5_gemma,
    "AutoencoderKL": kl_vae,
    "AutoencoderKLWan": wan_vae,
    "UNet2DConditionModel": unet,
    "ZImageTransformer2DModel": z_image,
}
"""Class -> what makes it for the pipeline of a name, where its row does not tell all."""
