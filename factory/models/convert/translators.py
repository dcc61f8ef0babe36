"""Checkpoints of one-pass translators: CUT, CycleGAN, AI-FFPE, pix2pix, GigaTIME, HistoPlexer.

The networks have the names of the published code, so weights keep theirs; what training and other
versions of torch left beside them is dropped and counted, and anything else is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from factory.core.errors import InputError
from factory.models.convert import Options
from factory.models.translators import TranslatorConfig, build_network
from factory.models.translators.config import IMAGENET_MEAN, IMAGENET_STD, SIGNED, NetworkSettings
from factory.models.translators.folder import About, check_name, save_translator

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
_PREFIXES = ("module.", "netG.", "_orig_mod.")
"""Of DataParallel, of a model that holds the generator, and of torch.compile."""
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NAMED = 4  # keys that a message names


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a published code has in common.

    `network` is the kind of its network, `title` names it; `mean`, `std` and `output` say how
    pixels enter and leave.
    """

    network: str
    title: str
    mean: tuple[float, ...] = SIGNED
    std: tuple[float, ...] = SIGNED
    output: str = "signed"


KINDS: Mapping[str, _Kind] = {
    "cut": _Kind("resnet", "CUT or AI-FFPE"),
    "cyclegan": _Kind("resnet", "CycleGAN"),
    "unet": _Kind("unet", "pix2pix"),
    "unetpp": _Kind("unetpp", "U-Net++", IMAGENET_MEAN, IMAGENET_STD, "logits"),
    "gigatime-flash": _Kind("vit", "GigaTIME-Flash", IMAGENET_MEAN, IMAGENET_STD, "logits"),
    "histoplexer": _Kind("histoplexer", "HistoPlexer", (0.0,) * 3, (1.0,) * 3, "unit"),
}
"""`--kind` -> the code that wrote the checkpoint."""


def convert(state: Mapping[str, "Tensor"], options: Options) -> dict[str, Any]:
    """Writes a folder of the family `translator`; returns what it takes, and what was dropped.

    Raises:
        InputError: a checkpoint that is not of this kind; names the weights that have no place.
    """
    kind, entry = KINDS[options.kind], check_name(options.out)
    for name in ("config", "text_encoder"):
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: has no effect on --kind {options.kind}: leave it out")
    own, dropped = _adapt(_strip(state), kind, options.kind)
    settings = _read_settings(own, kind, options.kind)
    own, statistics = _fit_statistics(own, settings)
    _check_names(own, settings, options.kind)
    dropped += statistics
    try:
        config = TranslatorConfig(
            network=settings,
            mean=kind.mean,
            std=kind.std,
            output=kind.output,
            channel_names=options.class_names,
            mpp=options.mpp,
        )
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--classes: {said}") from error
    about = About(
        name=entry,
        title=f"{entry}, converted from a checkpoint of {kind.title}",
        writer="factory models convert",
        lines=(f"converted from a checkpoint of {kind.title}; `conversion.json` has its sha256",),
    )
    save_translator(own, config, about, options.out)
    return {
        "takes": "source",
        "width": config.width,
        "height": config.height,
        "model": entry,
        "dropped": sorted(dropped),
    }


def _strip(state: Mapping[str, "Tensor"]) -> State:
    """Returns the weights without the prefixes that all of them have."""
    own = dict(state)
    while found := next((p for p in _PREFIXES if all(key.startswith(p) for key in own)), None):
        own = {key.removeprefix(found): value for key, value in own.items()}
    return own


def _adapt(own: State, kind: _Kind, name: str) -> tuple[State, list[str]]:
    """Brings the weights to the names of the network; returns what it does not read, too.

    Raises:
        InputError: of another one.
    """
    module = import_module(f"factory.models.translators.{kind.network}")
    try:
        kept, dropped = module.adapt(own) if hasattr(module, "adapt") else (own, [])
    except (KeyError, RuntimeError, ValueError) as error:
        raise _tell_other(own, error, name) from error
    return dict(kept), list(dropped)


def _read_settings(own: State, kind: _Kind, name: str) -> NetworkSettings:
    """Returns the network that the weights are of.

    Raises:
        InputError: of another one.
    """
    module = import_module(f"factory.models.translators.{kind.network}")
    try:
        settings: NetworkSettings = module.read_settings(own)
    except (KeyError, IndexError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise _tell_other(own, error, name) from error
    return settings


def _tell_other(own: State, error: Exception, name: str) -> InputError:
    said = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return InputError(
        f"--kind {name}: the checkpoint is of another network ({said[:200]}); it has "
        f"{_list(own)}: give the kind of its code: {', '.join(KINDS)}"
    )


def _fit_statistics(own: State, settings: NetworkSettings) -> tuple[State, list[str]]:
    """Leaves out statistics that an instance norm of old torch kept; adds counts that it had not.

    torch before 0.4 counted no batches, and an instance norm there kept averages that none reads.
    """
    import torch

    wanted = _list_shapes(settings)
    is_instance = getattr(settings, "norm", None) == "instance"
    idle = [k for k in own if is_instance and k not in wanted and k.endswith(_STATISTICS)]
    kept = {key: value for key, value in own.items() if key not in idle}
    counts = [key for key in wanted if key.endswith(_STATISTICS[-1]) and key not in own]
    return kept | {key: torch.zeros((), dtype=torch.long) for key in counts}, idle


def _check_names(own: State, settings: NetworkSettings, name: str) -> None:
    """Checks that every weight has its place, and every place its weight.

    Raises:
        InputError: names those that have not.
    """
    wanted = _list_shapes(settings)
    unknown = [key for key in own if key not in wanted]
    missing = [key for key in wanted if key not in own]
    other = [
        f"{key} {list(value.shape)} for {list(wanted[key])}"
        for key, value in own.items()
        if key in wanted and value.shape != wanted[key]
    ]
    told = {"unknown weights": unknown, "missing weights": missing, "other shapes": other}
    faults = [f"{what}: {_list(keys)}" for what, keys in told.items() if keys]
    if faults:
        raise InputError(
            f"--kind {name}: the checkpoint is not of this network: {'; '.join(faults)}: give the "
            "generator's own checkpoint"
        )


def _list_shapes(settings: NetworkSettings) -> "Mapping[str, Any]":
    import torch

    with torch.device("meta"):
        return {k: value.shape for k, value in build_network(settings).state_dict().items()}


def _list(keys: "list[str] | State") -> str:
    named = list(keys)[:_NAMED]
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(named) + rest
