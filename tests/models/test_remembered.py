"""Text encoders are called once for each input that they have not seen, and bits stay the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factory.data.records import Condition, Job, Request
from factory.models.generators import build_generator, remembered
from factory.models.generators.remembered import Remembered, remember_texts
from factory.models.generators.settings import GeneratorSettings
from tests import tiny


def sample(folder: Path, captions: list[str], count_calls: bool = True) -> tuple[Any, Counter[str]]:
    """Returns pixels of four batches of two, and how often each text encoder was called."""
    values = {"width": 32, "height": 32, "steps": 2, "batch_size": 2, "guidance": 4.0}
    generator = build_generator(GeneratorSettings(model=str(folder), **values), None, Path())
    calls = Counter[str]()
    for name, module in generator.model.pipeline.components.items():
        if count_calls and name.startswith("text_encoder") and module is not None:
            module.forward._call = count(module.forward._call, name, calls)
    pixels = []
    for batch in range(4):
        rows = range(2 * batch, 2 * batch + 2)
        requests = [
            Request("s", row, Condition(caption=captions[row % len(captions)]), 0) for row in rows
        ]
        pixels += generator.generate([Job(each, 0, each.index) for each in requests])
    return np.stack([each.pixels for each in pixels]), calls


def count(call: Any, name: str, calls: Counter[str]) -> Any:
    def counted(*arguments: Any, **options: Any) -> Any:
        calls[name] += 1
        return call(*arguments, **options)

    return counted


@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-xl"])
def test_one_caption_is_encoded_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.save_tiny(family, tmp_path / "model")
    pixels, calls = sample(folder, ["a b"])
    # The prompt, and the empty one where it is encoded.
    assert calls and set(calls.values()) <= {1, 2}
    _, more = sample(folder, ["a b", "a b", "a c", "a b"])
    assert {name: more[name] - calls[name] for name in calls} == dict.fromkeys(calls, 1)
    monkeypatch.setattr(remembered, "MOST_INPUTS", 0)
    plain, every = sample(folder, ["a b"])
    assert {name: every[name] for name in calls} == {name: 4 * calls[name] for name in calls}
    assert np.array_equal(pixels, plain)


class Encoder(torch.nn.Module):
    """Gives a tensor for ids, and the ids in a list where asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, ids: torch.Tensor, mask: Any = None, answer: Any = None) -> Any:
        self.calls += 1
        return {"hidden": ids[..., None] * self.weight, "more": (ids.float(), None), "said": answer}


def test_what_differs_is_asked_again() -> None:
    encoder = Encoder()
    remember_texts({"text_encoder": encoder, "tokenizer": None, "vae": torch.nn.Identity()})
    ids = torch.tensor([[1, 2], [3, 4]])
    with torch.no_grad():
        first = encoder(ids, mask=None)
        again = encoder(ids.clone(), mask=None)
        assert encoder.calls == 1 and torch.equal(first["hidden"], again["hidden"])
        again["hidden"].zero_()  # the caller's own
        assert torch.equal(encoder(ids, mask=None)["hidden"], first["hidden"])
        for other in (ids[:1], ids.flip(0), ids.int(), ids.reshape(1, 4)):
            before = encoder.calls
            encoder(other, mask=None)
            assert encoder.calls == before + 1
        before = encoder.calls
        encoder(ids, mask=ids > 1)
        encoder(ids, mask=ids > 2)
        assert encoder.calls == before + 2
        encoder.weight.mul_(2)  # as a training does
        assert torch.equal(encoder(ids, mask=None)["hidden"], 2 * first["hidden"])


def test_what_cannot_be_kept_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, ids = Encoder(), torch.tensor([[1, 2]])
    remember_texts({"text_encoder_2": encoder})
    remember_texts({"text_encoder_2": encoder})  # of the image-to-image pipeline, too
    assert isinstance(encoder.forward, Remembered)
    encoder(ids), encoder(ids)  # with gradients
    assert encoder.calls == 2
    with torch.no_grad():
        encoder(ids.float()), encoder(ids.float())  # embeddings
        encoder(ids, answer="a cache"), encoder(ids, answer="a cache")
        assert encoder.calls == 6
        monkeypatch.setattr(remembered, "MOST_BYTES", 70)
        for number in (1, 2, 1, 2, 3, 1):  # 2 x (24 + 8) bytes; the oldest goes
            encoder(ids * number)
        assert encoder.calls == 10
        encoder(ids.expand(9, 2)), encoder(ids.expand(9, 2))  # too large
        assert encoder.calls == 12
