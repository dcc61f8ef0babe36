"""The family `multi`: streams of conditions become arguments, and rows are made again from them."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from factory.catalog.catalog import LicenceTerms, ModelEntry, load_catalogs
from factory.core.errors import InputError
from factory.data.images import SourceImage
from factory.data.records import Condition, Job, Request
from factory.data.streams import Control, Embedding, Reference, Scale, Stream, Vector
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from tests import tiny
from tests.running import call, read_rows, run

SIZE = 32
VALUES = {"HYPOXIA": 0.5, "APOPTOSIS": -1.0, "MITOSIS": 2.0}
Build = Callable[..., Any]


@dataclass(frozen=True)
class Drawn:
    """A label map: a square of one label."""

    label: int = 7

    def describe(self) -> dict[str, Any]:
        return {"sha256": f"{self.label:064x}", "fit": "crop"}

    def read(self, width: int, height: int) -> Any:
        labels = np.zeros((height, width), np.uint8)
        labels[4:20, 4:20] = self.label
        return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny("multi", tmp_path_factory.mktemp("multi") / "model")


@pytest.fixture(scope="module")
def build(folder: Path) -> Build:
    def make(**changes: Any) -> Any:
        values = {"model": str(folder), "steps": 2, "batch_size": 4, "guidance": 2.0, **changes}
        return build_generator(GeneratorSettings(**values), None, Path())

    return make


@pytest.fixture(scope="module")
def plain(build: Build) -> Any:
    return build()


def make_job(*streams: Stream, caption: str | None = None) -> Job:
    return Job(Request("series", 0, Condition(None, caption, *streams), 0), 0, 5)


def draw(generator: Any, *streams: Stream, caption: str | None = "tumor") -> Any:
    return generator.generate([make_job(*streams, caption=caption)])[0].pixels


def test_every_stream_of_a_condition_changes_its_image_and_no_other(plain: Any) -> None:
    streams: list[Stream] = [
        Scale(0.25),
        Vector.of(VALUES),
        Embedding.of(np.ones((1, 480)), "color-texture"),
        Control(Drawn(), ((7, "gland"),)),
    ]
    alone = draw(plain)
    made = plain.generate([make_job(each, caption="tumor") for each in streams])
    for sample, stream in zip(made, streams, strict=True):
        assert np.array_equal(sample.pixels, draw(plain, stream)), stream.name
        assert not np.array_equal(sample.pixels, alone), stream.name
    part = Vector.of({"HYPOXIA": 0.5})
    assert not np.array_equal(draw(plain, part), draw(plain, Vector.of(VALUES)))
    unknown = Vector.of({"HYPOXIA": 0.5, "MITOSIS": 0.0}, missing=["MITOSIS"])
    assert np.array_equal(draw(plain, part), draw(plain, unknown))


def test_a_reference_is_where_the_path_starts_and_an_embedding(plain: Any, tmp_path: Path) -> None:
    for name, colour in (("pink", (225, 140, 190)), ("blue", (60, 60, 200))):
        Image.new("RGB", (SIZE, SIZE), colour).save(tmp_path / f"{name}.png")
    pink, blue = (
        Reference(SourceImage(f"{name}.png", None, None, tmp_path / f"{name}.png"), name, 1.0)
        for name in ("pink", "blue")
    )
    # All of the path is run again: what differs is what the encoder sees.
    assert not np.array_equal(draw(plain, pink), draw(plain, blue))
    own = Embedding.of(np.ones((1, 480)), "color-texture")
    assert np.array_equal(draw(plain, pink, own), draw(plain, blue, own))


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (Embedding.of(np.ones((1, 480)), "uni2-h"), "takes 480 numbers of color-texture, got 480"),
        (Embedding.of(np.ones((1, 8)), "color-texture"), "got 8 of color-texture"),
        (Vector.of({"HYPOXYA": 1.0}), "no value 'HYPOXYA': did you mean 'HYPOXIA'"),
        (Control(Drawn(), ((7, "vessel"),)), "vessel"),
    ],
)
def test_a_stream_of_other_values_is_refused(plain: Any, stream: Stream, said: str) -> None:
    with pytest.raises(Exception, match=said):
        draw(plain, stream)


def test_a_stream_has_a_guidance_of_its_own(build: Build, plain: Any) -> None:
    strong = build(stream_guidance={"caption": {"scale": 6.0, "low": 0.2}})
    assert not np.array_equal(draw(strong), draw(plain))
    told = strong.describe()["arguments"]["stream_guidance"]
    assert told == {"caption": {"scale": 6.0, "low": 0.2, "high": 1.0}}
    assert "stream_guidance" not in plain.describe()["arguments"]
    with pytest.raises(InputError, match=r"stream_guidance.smell: no stream of the model"):
        build(stream_guidance={"smell": {"scale": 2.0}})
    fake = GeneratorSettings(model="fake", stream_guidance={"caption": {"scale": 2.0}})
    with pytest.raises(InputError, match="family 'fake', which has one guidance"):
        build_generator(fake, None, Path())


def test_rows_of_values_scale_and_class_are_made_again_exactly(
    folder: Path, tmp_path: Path
) -> None:
    entry = ModelEntry(
        id="tiny-multi", source=str(folder), family="multi", width=SIZE, height=SIZE, steps=2,
        guidance=2.0, class_names=tiny.CLASS_NAMES,
        licence=LicenceTerms(id="cc0-1.0", date_read="2026-11-26"),
    )  # fmt: skip
    (tmp_path / "models").mkdir()
    described = entry.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "models/tiny-multi.yaml").write_text(yaml.safe_dump(described))
    with (tmp_path / "v.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*VALUES, "tissue", "mpp"])
        writer.writerows([[0.1, 0.2, 0.3, "TUM", 0.5], [1.0, -2.0, 0.0, "ADI", 0.25]])
    columns = {"class_name": "tissue", "scale": "mpp"}
    recipe = {
        "name": "multi",
        "seed": 3,
        "catalogs": ["."],
        "generator": {
            **{"model": "tiny-multi", "batch_size": 2},
            "stream_guidance": {"vector": {"scale": 4.0, "high": 0.9}},
        },
        "conditions": [{"kind": "vector", "vectors": "v.csv", "per_row": 1, "columns": columns}],
        "filters": [{"kind": "finite"}],
    }
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe))
    assert run(path, out).exit_code == 0
    rows = read_rows(out)
    assert sorted(row["asked_mpp"] for row in rows) == [0.25, 0.5]
    words = ["verify", str(out), "--regenerate", "2", "--base", str(tmp_path)]
    told = call(*words)
    assert told.output.count(": exact") == 2 and told.exit_code == 0, told.output


def test_a_row_is_the_same_whoever_with_longer_embeddings_shares_its_batch(build: Build) -> None:
    generator = build(batch_size=2)
    encoder = generator.model.pipeline.config.encoder
    width = generator.model.pipeline.transformer.config.embedding_dim
    draws = np.random.default_rng(0)
    short, long = (
        make_job(Embedding.of(draws.normal(size=(count, width)), encoder)) for count in (1, 5)
    )
    calls: list[set[int]] = []
    inner = generator.family.bind

    def bind(conditions: Any, model: Any) -> Any:
        calls.append({len(each.get(Embedding).array) for each in conditions})
        return inner(conditions, model)

    generator.family.bind = bind
    beside = generator.generate([short, long])
    assert calls == [{1}, {5}]  # never padded to another's length
    for job, sample in zip((short, long), beside, strict=True):
        assert np.array_equal(generator.generate([job])[0].pixels, sample.pixels)


def test_beside_a_mask_a_class_is_a_label_of_a_model_that_learned_none() -> None:
    entry = load_catalogs().find_model("he-multi-base")
    generator = build_generator(GeneratorSettings(model=entry.id, steps=1), entry, Path())
    nuclei = Control(Drawn(), ((7, "nucleus"),))
    first, second = (
        generator.generate([Job(Request("series", 0, condition, 0), 0, 5)])[0]
        for condition in (Condition(None, None, nuclei), Condition("tumor", None, nuclei))
    )
    assert np.array_equal(first.pixels, second.pixels)
    for streams in ((), (Scale(0.5),)):
        with pytest.raises(InputError, match="has learned no classes, asked for 'tumor'"):
            asked = Request("series", 0, Condition("tumor", None, *streams), 0)
            list(generator.generate([Job(asked, 0, 5)]))
