"""Checkpoints of CompVis latent-diffusion: UNet, first stage (VQ or KL) and conditioner.

Names are mapped by diffusers' own converters; what these leave out is checked and refused.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from factory.core.errors import InputError
from factory.models.convert import Options

if TYPE_CHECKING:
    from torch import Tensor, nn

_UNET, _FIRST, _CONDITION = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
_SKIPPED = ("loss.",)
_GRIDS = ("EmbeddingViT2", "EmbeddingViT2_5")
"""ZoomLDM's names of `GridConditioner`, without and with a norm at its end."""
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
State = Mapping[str, "Tensor"]


def convert(state: State, options: Options) -> dict[str, Any]:
    """Writes a folder of `LatentPipeline`; returns what it takes and how it was trained.

    Raises:
        InputError: a configuration or checkpoint that is not of this kind, or parts that diffusers
            does not have.
    """
    from factory.models.generators.latent import LatentPipeline

    params, path = _read_config(options)
    try:
        unet = _build_unet(state, params)
        vae = _build_first_stage(state, params)
        takes, parts = _build_conditioner(state, params, options)
        scheduler = _build_scheduler(params)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: lacks {error}, which CompVis configurations have") from error
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: does not fit the checkpoint ({said}): give its own") from error
    pipeline = LatentPipeline(
        vae=vae,
        unet=unet,
        scheduler=scheduler,
        takes=takes,
        class_names=",".join(options.class_names),
        mpp=options.mpp,
        **parts,
    )
    pipeline.save_pretrained(options.out, safe_serialization=True)
    return {"takes": takes, "width": pipeline.image_size, "height": pipeline.image_size}


def _read_config(options: Options) -> tuple[dict[str, Any], Path]:
    path = options.config
    if path is None:
        raise InputError("--config: a CompVis checkpoint needs the YAML that it was trained with")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        params = config["model"]["params"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: no configuration of latent-diffusion ({error}): give the YAML file that the "
            "checkpoint was trained with: it has model.params"
        ) from error
    if not isinstance(params, dict):
        raise InputError(
            f"{path}: model.params: {str(params)[:80]}: must be a mapping with unet_config, "
            "first_stage_config and cond_stage_config: give the YAML of the training"
        )
    return params, path


def _select(state: State, prefix: str) -> dict[str, "Tensor"]:
    """Returns the tensors under a prefix, without it, and without what training alone needs."""
    own = {key.removeprefix(prefix): each for key, each in state.items() if key.startswith(prefix)}
    kept = {key: each for key, each in own.items() if not key.startswith(_SKIPPED)}
    if not kept:
        raise ValueError(f"holds no {prefix}*")
    return kept


def _fill(module: "nn.Module", state: State, given: int, what: str) -> Any:
    """Loads every weight of a module by name, in float32; none may be left over."""
    module.load_state_dict({key: value.float() for key, value in state.items()})
    if len(state) != given:
        raise ValueError(f"{what}: {given} weights, of which diffusers takes {len(state)}")
    return module.eval()


def _build_unet(state: State, params: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import single_file_utils as ldm

    config = ldm.create_unet_diffusers_config_from_ldm({"model": {"params": params}}, dict(state))
    config["sample_size"] = params["image_size"]
    averaged = any(key.startswith("model_ema.diffusion_model") for key in state)
    own = {key: each for key, each in state.items() if key.startswith(_UNET)}
    if averaged:  # names without dots, as the code writes them
        names = {key: "model_ema." + "".join(key.split(".")[1:]) for key in own}
        own = {key: state[name] for key, name in names.items() if name in state} or own
    converted = ldm.convert_ldm_unet_checkpoint(own, config)
    module = UNet2DConditionModel.from_config(config)
    return _fill(module, converted, len(own), "UNet")


def _build_first_stage(state: State, params: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKL, VQModel
    from diffusers.loaders import single_file_utils as ldm

    first = params["first_stage_config"]
    own = _select(state, _FIRST)
    config = ldm.create_vae_diffusers_config_from_ldm({"model": {"params": params}}, {})
    config["sample_size"] = first["params"]["ddconfig"]["resolution"]
    config["scaling_factor"] = float(params.get("scale_factor", 1.0))
    prefixed = {_FIRST + key: value for key, value in own.items()}
    converted = ldm.convert_ldm_vae_checkpoint(prefixed, config)
    if "VQ" not in first["target"]:
        return _fill(AutoencoderKL.from_config(config), converted, len(own), "first stage")
    codes = own["quantize.embedding.weight"]
    config |= {"num_vq_embeddings": codes.shape[0], "vq_embed_dim": codes.shape[1]}
    converted["quantize.embedding.weight"] = codes
    return _fill(VQModel.from_config(config), converted, len(own), "first stage")


def _build_conditioner(
    state: State, params: dict[str, Any], options: Options
) -> tuple[str, dict[str, Any]]:
    """Returns the stream that the model takes, and the parts that read it."""
    from factory.models.generators.latent import LatentConditioner

    stage = params["cond_stage_config"]
    name = str(stage["target"]).rpartition(".")[2]
    if name == "FrozenCLIPEmbedder":
        return "caption", _build_text_encoder(state, options, stage.get("params") or {})
    own = _select(state, _CONDITION)
    if name == "ClassEmbedder":
        classes, dim = own["embedding.weight"].shape
        if len(options.class_names) != classes - 1:
            raise InputError(
                f"--classes: {len(options.class_names)} names, but the checkpoint has "
                f"{classes - 1} classes and one for none: give them in the order of its training"
            )
        module = LatentConditioner(dim, classes=classes)
        return "class_name", {"conditioner": _fill(module, own, len(own), "conditioner")}
    if name == "PatchEmbedder":
        dim, width = own["patch_fc.weight"].shape
        normalise = bool(stage.get("params", {}).get("normalize_ssl", False))
        module = LatentConditioner(dim, embedding_dim=width, normalise=normalise)
        return "embedding", {"conditioner": _fill(module, own, len(own), "conditioner")}
    if name in _GRIDS:
        return "embedding", {"conditioner": _build_grid(own, stage.get("params", {}))}
    known = ", ".join(("FrozenCLIPEmbedder", "ClassEmbedder", "PatchEmbedder", *_GRIDS))
    raise InputError(f"{options.config}: conditioner {name!r} has no adapter: {known} have one")


def _build_grid(own: State, params: Mapping[str, Any]) -> Any:
    """Returns ZoomLDM's transformer over embeddings and scale."""
    from factory.models.generators.latent_grid import GridConditioner

    hidden, width = own["dim_reduce.weight"].shape
    module = GridConditioner(
        dim=own["final_proj.weight"].shape[0],
        embedding_dim=width,
        hidden=hidden,
        mlp=own["encoder.layers.encoder_layer_0.mlp.0.weight"].shape[0],
        layers=params.get("num_layers", 12),
        heads=params.get("num_heads", 8),
        scales=own["mag_embedding.weight"].shape[0],
        has_norm="layer_norm.weight" in own,
    )
    return _fill(module, own, len(own), "conditioner")


def _build_text_encoder(
    state: State, options: Options, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns tokenizer, text encoder and the windows of tokens that it reads.

    Where texts are longer than the encoder's positions, PathLDM's code counts these anew in each
    window of as many tokens: one encoder whose positions are those of the published one repeated.
    """
    from diffusers.loaders import single_file_utils as ldm
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    folder = options.text_encoder
    if folder is None or not (folder / "config.json").is_file():
        raise InputError(
            "--text-encoder: give a folder with the tokenizer and config.json of the text encoder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    except OSError as error:
        raise InputError(f"{folder}: no tokenizer of a CLIP text encoder ({error})") from error
    own = ldm.convert_ldm_clip_checkpoint(dict(state))
    own = {key: each for key, each in own.items() if not key.endswith("position_ids")}
    window = config.max_position_embeddings
    windows = math.ceil(params.get("max_length", window) / window)
    config.max_position_embeddings = tokenizer.model_max_length = windows * window
    module = CLIPTextModel(config)
    if not hasattr(module, "text_model"):  # flattened since transformers 5.6
        own = {key.removeprefix("text_model."): each for key, each in own.items()}
    for key in own:
        if key.endswith("position_embedding.weight"):
            own[key] = own[key].repeat(windows, 1)
    encoder = _fill(module, own, len(own), "text encoder")
    return {"text_encoder": encoder, "tokenizer": tokenizer, "windows": windows}


def _build_scheduler(params: dict[str, Any]) -> Any:
    """Returns DDIM with the noise schedule of the training, which CompVis calls `linear`."""
    from diffusers import DDIMScheduler

    if params.get("beta_schedule", "linear") != "linear":
        raise ValueError(f"beta_schedule {params['beta_schedule']!r} has no counterpart")
    return DDIMScheduler(
        num_train_timesteps=params.get("timesteps", 1000),
        beta_start=params["linear_start"],
        beta_end=params["linear_end"],
        beta_schedule="scaled_linear",
        prediction_type=_PREDICTIONS[params.get("parameterization", "eps")],
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
