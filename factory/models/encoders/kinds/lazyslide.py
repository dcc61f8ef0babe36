"""`lazyslide:KEY`: any image encoder of the registry of the package `lazyslide-models`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from factory.core.yaml.messages import advise
from factory.models.encoders.kinds.packaged import LibraryKind, Loaded, Loading

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "lazyslide_models"
TASKS = frozenset({"vision", "multimodal"})
"""What the registry calls models that encode a patch."""
HUB_IDS = {
    "biomedclip": "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    "conch": "MahmoodLab/conch",
    "conch_v1.5": "MahmoodLab/TITAN",
    "gigapath": "prov-gigapath/prov-gigapath",
    "gigapath-flash": "prov-gigapath/prov-gigapath-flash",
    "gpfm": "majiabo/GPFM",
    "h-optimus-0": "bioptimus/H-optimus-0",
    "h-optimus-1": "bioptimus/H-optimus-1",
    "h0-mini": "bioptimus/H0-mini",
    "keep": "Astaxanthin/KEEP",
    "midnight": "kaiko-ai/midnight",
    "mstar": "Wangyh/mSTAR",
    "musk": "xiangjx/musk",
    "open-midnight": "SophontAI/OpenMidnight",
    "phikon": "owkin/phikon",
    "phikonv2": "owkin/phikon-v2",
    "plip": "vinid/plip",
    "titan": "MahmoodLab/TITAN",
    "uni": "MahmoodLab/uni",
    "uni2": "MahmoodLab/UNI2-h",
    "virchow": "paige-ai/Virchow",
    "virchow2": "paige-ai/Virchow2",
}
"""Key of the registry -> Hub id of the weights, by which all kinds call them."""

OWN_CODE = frozenset(
    [
        "conceptclip",
        "genbio-pathfm",
        "hibou-b",
        "hibou-l",
        "mascaret",
        "omiclip",
        "phaet",
        "prism",
        "prism2",
        "rudolfv2",
        "rudolfv2-b",
        "rudolfv2-s",
        "titan",
        "conch_v1.5",
    ]
)
"""Keys for which lazyslide-models 0.1.0 runs a repository's own code, or reads a pickle whole."""


class LazyslideKind(LibraryKind):
    """Patch encoders of `lazyslide-models` (the extra `lazyslide`), with their own preprocessing.

    Some of them need a further package of their authors, which the message then names. Their text
    sides are not read.
    """

    kind = "lazyslide"
    form = "lazyslide:KEY"

    @property
    def weights(self) -> str:
        """The Hub id of its weights, where they lie there."""
        return HUB_IDS.get(self.name, self.name)

    def explain_missing(self) -> str | None:
        """Says that the package is not installed, or would run code of the Hub, or None."""
        if self.name in OWN_CODE:
            return (
                f"encoder {self.label}: lazyslide-models runs code of its repository for it, of no "
                "pinned revision and unasked: take another encoder"
            )
        if find_spec(PACKAGE) is not None:
            return None
        return (
            f"encoder {self.label}: needs the package lazyslide-models: "
            "pip install 'factory-pathology[lazyslide]'"
        )

    def build(self, name: str, how: Loading) -> Loaded:
        """Builds a model of the registry, with the arguments of the catalog entry.

        Raises:
            ValueError: no image encoder of this key, or random weights asked for.
            ImportError: the package, or one that the model needs besides, is not installed.
        """
        lack = self.explain_missing()
        if lack is not None:
            raise ImportError(lack)
        if not how.pretrained:
            raise ValueError(f"{name}: the registry has no random weights: leave ?pretrained out")
        from importlib.metadata import PackageNotFoundError, version

        registry: Any = __import__(PACKAGE).MODEL_REGISTRY
        known = sorted(key for key in registry if TASKS & _list_tasks(registry[key]))
        if name not in known:
            raise ValueError(f"no image encoder {name!r} in the registry: {advise(name, known)}")
        model = registry[name](**how.arguments)
        try:
            revision = f"lazyslide-models {version('lazyslide-models')}"
        except PackageNotFoundError:
            revision = None
        return _gather(model), _read_forward(model), model.get_transform(), revision


def _list_tasks(model_class: Any) -> set[str]:
    """Returns what a class of the registry is for: it has one task, or a list of them."""
    tasks = model_class.task if isinstance(model_class.task, list) else [model_class.task]
    return {str(getattr(task, "value", task)) for task in tasks}


def _gather(model: Any) -> Any:
    """Returns all networks that a model holds as one: they move, and are hashed, together."""
    from torch import nn

    found = {id(each): each for each in vars(model).values() if isinstance(each, nn.Module)}
    return nn.ModuleList(found.values())


def _read_forward(model: Any) -> Any:
    def forward(batch: "Tensor") -> "Tensor":
        import torch

        return torch.as_tensor(model.encode_image(batch))

    return forward
