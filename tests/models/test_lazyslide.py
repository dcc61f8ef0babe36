"""`lazyslide:KEY` on a stub of the registry, written after the source of lazyslide-models 0.1.0."""

import enum
import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.models.encoders import find_weights, load_encoder, open_kind
from factory.models.encoders.kinds.lazyslide import HUB_IDS, LazyslideKind


class Task(enum.Enum):
    vision = "vision"
    multimodal = "multimodal"
    slide_encoder = "slide_encoder"


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255


class Tiny:
    """An image encoder of the registry: `model`, a second network, `get_transform`."""

    task: Any = Task.vision

    def __init__(self, model_path: str | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(3)
        self.model = torch.nn.Conv2d(3, 4, 3)
        self.head = torch.nn.Linear(4, 5)
        self.scale = scale

    def get_transform(self) -> Any:
        return to_tensor

    @torch.inference_mode()
    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.model(image).mean(dim=(2, 3)))


class Both(Tiny):
    task = [Task.multimodal, Task.slide_encoder]  # noqa: RUF012 - as the package has it


class Headed(Tiny):
    def __init__(self) -> None:
        super().__init__()
        torch.nn.init.zeros_(self.head.weight)


class Slide(Tiny):
    task = Task.slide_encoder


class Missing(Tiny):
    def __init__(self) -> None:
        raise ImportError("Conch is not installed. You can install it using `pip install git+x`.")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lazyslide_models")
    module.__spec__ = ModuleSpec("lazyslide_models", None)
    module.MODEL_REGISTRY = {  # type: ignore[attr-defined]
        "h0-mini": Tiny,
        "musk": Both,
        "titan": Both,
        "madeleine": Slide,
        "conch": Missing,
        "keep": Headed,
    }
    monkeypatch.setitem(sys.modules, "lazyslide_models", module)


def draw(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.mark.usefixtures("registry")
def test_an_image_gets_the_features_of_the_registrys_model() -> None:
    images, own = draw(3), Tiny()
    expected = own.encode_image(torch.stack([to_tensor(Image.fromarray(each)) for each in images]))
    for key in ("h0-mini", "musk"):
        encoder = load_encoder(f"lazyslide:{key}", device="cpu")
        np.testing.assert_allclose(encoder.encode(images), expected.numpy(), rtol=1e-5)
        np.testing.assert_array_equal(encoder.encode(images[1:2]), encoder.encode(images)[1:2])
    described = encoder.describe()
    assert (described["id"], described["dim"]) == ("lazyslide:musk", 5)
    digests = [
        LazyslideKind(f"lazyslide:{key}").load("cpu").describe() for key in ("h0-mini", "keep")
    ]
    same, other = (each["weights_sha256"] for each in digests)
    assert same == described["weights_sha256"] != other  # every network counts


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lazyslide:titann", "no image encoder 'titann' in the registry: did you mean 'titan'"),
        ("lazyslide:madeleine", "no image encoder 'madeleine'"),
        ("lazyslide:conch", "Conch is not installed. You can install it using"),
        ("lazyslide:musk?pretrained=false", "has no random weights"),
        ("lazyslide:titan", "runs code of its repository for it"),
        ("lazyslide:prism", "runs code of its repository for it"),
    ],
)
def test_what_it_cannot_load_is_said(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder(spec, device="cpu")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.models.encoders.kinds.lazyslide.find_spec", lambda name: None)
    assert "factory-pathology[lazyslide]" in str(open_kind("lazyslide:keep").explain_missing())
    with pytest.raises(InputError, match=r"pip install 'factory-pathology\[lazyslide\]'"):
        load_encoder("lazyslide:keep", device="cpu")


def test_one_encoder_has_one_name_in_every_library() -> None:
    catalogs = load_catalogs()
    assert find_weights("lazyslide:uni2", catalogs) == find_weights("uni2-h", catalogs)
    assert find_weights("h0-mini", catalogs) == "bioptimus/H0-mini"
    for name in catalogs.list_ids("encoders"):
        source = catalogs.find_encoder(name).source
        if source.startswith("lazyslide:"):
            key = source.partition(":")[2]
            assert key in HUB_IDS or key == "ctranspath", name
