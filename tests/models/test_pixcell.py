"""`pixcell` on a tiny twin with its own code: what goes in, and that rows stand alone."""

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import Component, LicenceTerms, ModelEntry, TakenEmbedding
from factory.cli import main
from factory.core.errors import InputError
from factory.data.records import Condition, Job, Request
from factory.data.streams import Control, Embedding
from factory.models.generators import build_generator
from factory.models.generators.consent import find_imports
from factory.models.generators.settings import GeneratorSettings
from tests import tiny
from tests.contract import PALETTE, Drawn
from tests.running import read_rows, run

TERMS = LicenceTerms(id="cc0-1.0", date_read="2026-11-26")


def make_entry(folder: Path, tokens: int = 1, **changes: Any) -> ModelEntry:
    given = {
        "id": "twin",
        "source": str(folder),
        "custom_pipeline": str(folder),
        "remote_code": True,
        "family": "pixcell",
        "required": ("embedding",),
        "optional": ("class_name",),
        "embedding": TakenEmbedding(encoder="uni2-h", dim=6, tokens=tokens),
        "width": 32,
        "height": 32,
        "steps": 2,
        "guidance": 2.0,
        "licence": TERMS,
    }
    return ModelEntry(**{**given, **changes})


def build(entry: ModelEntry, trusts: bool = True, **settings: Any) -> Any:
    given = {"model": "twin", "batch_size": 3, "trust_remote_code": trusts, **settings}
    return build_generator(GeneratorSettings(**given), entry, Path())


def make_job(number: int, tokens: int = 1, class_name: str | None = None, **changes: Any) -> Job:
    array = np.random.default_rng(number).normal(size=(tokens, changes.get("dim", 6)))
    stream = Embedding.of(array, changes.get("encoder", "uni2-h"))
    return Job(Request("s", number, Condition(class_name, None, stream), number), 0, 100 + number)


@pytest.fixture(scope="module", params=[1, 16])
def twin(request: Any, tmp_path_factory: Any) -> Any:
    """A generator of one embedding, and of a grid of 16."""
    folder = tmp_path_factory.mktemp("pixcell") / "twin"
    entry = make_entry(tiny.save_pixcell(folder, request.param), request.param)
    return build(entry), request.param, entry


def test_every_row_is_made_of_its_own_embedding_whoever_stands_beside_it(twin: Any) -> None:
    generator, tokens, entry = twin
    jobs = [make_job(number, tokens) for number in range(3)]
    made = np.stack([each.pixels for each in generator.generate(jobs)])
    assert made.shape == (3, 32, 32, 3) and made.std() > 1
    alone = generator.generate([jobs[1]])[0].pixels
    beside = generator.generate([make_job(8, tokens), jobs[1]])[1].pixels
    assert np.array_equal(alone, made[1]) and np.array_equal(beside, made[1])
    again = np.stack([each.pixels for each in build(entry).generate(jobs)])
    assert np.array_equal(again, made)
    other = make_job(7, tokens)
    changed = Job(other.request, 0, jobs[0].seed)
    assert not np.array_equal(generator.generate([changed])[0].pixels, made[0])
    labelled = Job(make_job(0, tokens, "tumor").request, 0, jobs[0].seed)
    assert np.array_equal(generator.generate([labelled])[0].pixels, made[0])  # a label is not sent


def test_the_call_gets_tokens_and_the_models_own_null_embedding(
    twin: Any, monkeypatch: Any
) -> None:
    generator, tokens, _ = twin
    calls: list[dict[str, Any]] = []
    pipeline = generator.model.pipeline
    kind = type(pipeline)
    inner = kind.__call__

    def call(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(named)
        return inner(self, *given, **named)

    monkeypatch.setattr(kind, "__call__", call)
    job = make_job(0, tokens)
    generator.generate([job])
    (told,) = calls
    assert told["uni_embeds"].shape == (3, tokens, 6)
    stream = job.condition.get(Embedding)
    assert stream is not None
    assert torch.equal(told["uni_embeds"][0], torch.from_numpy(stream.array))
    null = pipeline.get_unconditional_embedding(3)
    assert torch.equal(told["negative_uni_embeds"], null) and null.std() > 0.1
    assert told["guidance_scale"] == 2.0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"encoder": "uni"}, "embedding: twin takes embeddings of uni2-h, got uni"),
        ({"dim": 5}, "embedding: twin takes"),
        ({"tokens": 4}, r"embedding: twin takes .* got 4 x 6"),
    ],
)
def test_other_embeddings_are_refused(twin: Any, changes: dict[str, Any], fault: str) -> None:
    generator, tokens, _ = twin
    with pytest.raises(InputError, match=fault):
        generator.generate([make_job(0, **{"tokens": tokens, **changes})])
    with pytest.raises(InputError, match="embedding is missing"):
        generator.generate([Job(Request("s", 0, Condition("tumor"), 0), 0, 1)])


def test_its_code_runs_only_where_recipe_and_catalog_agree(twin: Any) -> None:
    _, tokens, entry = twin
    with pytest.raises(InputError, match="runs its own code"):
        build(entry, trusts=False).generate([make_job(0, tokens)])
    closed = entry.model_copy(update={"remote_code": False})
    with pytest.raises(InputError, match="remote_code: true in its catalog entry"):
        build(closed).generate([make_job(0, tokens)])


def test_the_vae_of_another_model_is_loaded_and_counted(tmp_path: Path) -> None:
    folder = tiny.save_pixcell(tmp_path / "whole")
    parted = tiny.save_pixcell(tmp_path / "parted", vae=tmp_path / "sd35")
    part = Component(role="vae", source=str(tmp_path / "sd35"), licence=TERMS)
    entry = make_entry(parted, components=(part,))
    whole, apart = build(make_entry(folder)), build(entry)
    jobs = [make_job(0), make_job(1)]
    pairs = zip(whole.generate(jobs), apart.generate(jobs), strict=True)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in pairs)
    told = [each.describe()["weights_sha256"] for each in (whole, apart)]
    assert told[0] == told[1]  # the same weights, wherever they lie
    with pytest.raises(InputError, match=r"has no vae: name one .*role: vae"):
        build(make_entry(parted)).generate(jobs)
    gone = part.model_copy(update={"source": "owner/sd35"})
    with pytest.raises(InputError, match=r"vae owner/sd35: not here: .*hf download owner/sd35"):
        build(make_entry(parted, components=(gone,))).generate(jobs)


def test_a_recipe_runs_and_its_rows_are_made_again(tmp_path: Path) -> None:
    tiny.save_pixcell(tmp_path / "twin")
    entry = make_entry(tmp_path / "twin").model_dump(mode="json", exclude_none=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "twin.yaml").write_text(yaml.safe_dump(entry))
    np.save(tmp_path / "uni.npy", np.random.default_rng(0).normal(size=(3, 6)))
    block = {"kind": "embedding", "embeddings": "uni.npy", "encoder": "uni2-h", "per_row": 1}
    recipe = {
        "name": "twin",
        "catalogs": ["."],
        "generator": {"model": "twin", "trust_remote_code": True, "batch_size": 2},
        "conditions": [block],
        "workers": {"executor": "local"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    out = tmp_path / "run"
    assert run(path, out).exit_code == 0
    assert len({row["image_sha256"] for row in read_rows(out)}) == 3
    (tmp_path / "uni.npy").unlink()
    words = ["verify", str(out), "--regenerate", "3", "--base", str(tmp_path)]
    told = CliRunner().invoke(main, words)
    assert told.output.count(": exact") == 3 and told.exit_code == 0, told.output
    words = ["models", "check", "twin", "--catalog", str(tmp_path)]
    told = CliRunner().invoke(main, words)
    assert "runs its own code" in told.output and told.exit_code == 2


def test_cytosyn_is_asked_by_a_vector_beside_which_a_class_is_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_catalogs().find_model("cytosyn")
    folder = tiny.save_pixcell(tmp_path / "twin", name="CytoSynPipeline")
    same = (
        "family",
        "required",
        "optional",
        "call",
        "pipeline_arguments",
        "one_per_call",
        "guidance",
    )
    given = {name: getattr(shipped, name) for name in same}
    entry = make_entry(folder, embedding=None, **given)
    generator = build(entry, steps=2)
    calls: list[dict[str, Any]] = []
    kind = type(generator.model.pipeline)
    inner = kind.__call__

    @functools.wraps(inner)  # with its signature
    def call(self: Any, *told: Any, **named: Any) -> Any:
        calls.append(named)
        return inner(self, *told, **named)

    monkeypatch.setattr(kind, "__call__", call)
    bare = Job(Request("s", 9, Condition("tissue"), 9), 0, 109)
    for told in (
        entry,
        entry.model_copy(update={"required": (), "optional": entry.call.keys() | {"class_name"}}),
    ):
        with pytest.raises(InputError, match=r"embedding is missing|class_name would only label"):
            build(told, steps=2).generate([bare])
    jobs = [make_job(0), make_job(2, class_name="tissue"), make_job(1)]
    samples = generator.generate(jobs)
    made = np.stack([each.pixels for each in samples])
    assert [each.prompt for each in samples] == [None] * 3
    assert made.shape == (3, 32, 32, 3) and made.std() > 1
    by_vector = [each for each in calls if "h0_mini_embeds" in each]
    assert len(calls) == len(by_vector) == 3
    assert all(each["h0_mini_embeds"].shape == (1, 6) for each in by_vector)
    assert {(each["guidance_low"], each["guidance_high"]) for each in calls} == {(0.0, 0.75)}
    assert {each["num_inference_steps"] for each in calls} == {2}
    alone = np.stack([generator.generate([job])[0].pixels for job in jobs])
    assert np.array_equal(alone, made)
    other = Job(make_job(5).request, 0, jobs[0].seed)
    assert not np.array_equal(generator.generate([other])[0].pixels, made[0])
    calls.clear()
    nothing = load_catalogs().find_model("cytosyn-unconditional")
    told = entry.model_copy(
        update={name: getattr(nothing, name) for name in (*same, "class_names")}
    )
    generator = build(told, steps=2)
    bare = [Job(Request("s", n, Condition("histology"), n), 0, n) for n in range(2)]
    made = np.stack([each.pixels for each in generator.generate(bare)])
    assert not np.array_equal(made[0], made[1]) and made.std() > 1
    assert np.array_equal(generator.generate(bare[1:])[0].pixels, made[1])
    assert all("h0_mini_embeds" not in each and each["guidance_scale"] == 1.0 for each in calls)
    with pytest.raises(InputError, match="no class 'tissue'"):
        generator.generate([Job(Request("s", 9, Condition("tissue"), 9), 0, 109)])


CONTROL = """
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnet import zero_module  # where diffusers had it


class PixCellControlNet(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.leave = zero_module(torch.nn.Conv2d(channels, channels, 1))

    def forward(self, latents):
        return self.leave(latents)
"""


def save_masked(folder: Path) -> Path:
    """Saves a twin of the ControlNet: loose files beside the pipeline, one mask a call."""
    tiny.save_pixcell(folder)
    (folder / "pixcell_controlnet.py").write_text(CONTROL)
    code = (folder / "pipeline.py").read_text()
    for old, new in (
        ("null: Any, scheduler: Any)", "null: Any, controlnet: Any, scheduler: Any)"),
        ("null=null, scheduler", "null=null, controlnet=controlnet, scheduler"),
        ('output_type: str = "pil",\n    )', 'controlnet_input=None, output_type="pil")'),
        (
            "        self.scheduler.set_timesteps",
            "        mask = torch.from_numpy(controlnet_input.copy() / 127.5 - 1.0).float()\n"
            "        seen = self.vae.encode(mask.permute(2, 0, 1)[None]).latent_dist.mean\n"
            "        tokens = tokens + self.controlnet(seen).mean()\n"
            "        self.scheduler.set_timesteps",
        ),
    ):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (folder / "pipeline.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    index["controlnet"] = ["pixcell_controlnet", "PixCellControlNet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with find_imports({"custom_pipeline": str(folder)}, folder):
        network = importlib.import_module("pixcell_controlnet").PixCellControlNet()
    torch.nn.init.constant_(network.leave.bias, 0.5)
    torch.nn.init.constant_(network.leave.weight, 1.0)
    network.save_pretrained(folder / "controlnet", safe_serialization=True)
    return folder


def test_its_controlnet_takes_a_mask_a_call_by_code_of_an_older_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_masked(tmp_path / "twin")
    monkeypatch.delitem(sys.modules, "diffusers.models.controlnet", raising=False)
    shipped = load_catalogs().find_model("pixcell-256-cell-controlnet")
    same = ("family", "required", "optional", "guidance")
    entry = make_entry(folder, **{name: getattr(shipped, name) for name in same})
    generator = build(entry)
    assert "pixcell_controlnet" not in sys.modules and str(folder) not in sys.path

    def ask(number: int, place: int) -> Job:
        job = make_job(number)
        streams = (*job.condition.streams, Control(Drawn(place), PALETTE))
        return Job(Request("s", number, Condition(None, None, *streams), number), 0, job.seed)

    calls: list[Any] = []
    kind = type(generator.model.pipeline)
    inner = kind.__call__

    @functools.wraps(inner)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(named["controlnet_input"])
        return inner(self, *given, **named)

    monkeypatch.setattr(kind, "__call__", call)
    jobs = [ask(number, number % 2) for number in range(3)]
    made = np.stack([each.pixels for each in generator.generate(jobs)])
    assert made.std() > 1 and len(calls) == 3
    assert calls[0].shape == (32, 32, 3) and set(np.unique(calls[0])) == {0, 255}
    assert np.array_equal(generator.generate([jobs[1]])[0].pixels, made[1])
    other = generator.generate([ask(0, 2)])[0].pixels
    assert not np.array_equal(other, made[0])
    again = np.stack([each.pixels for each in build(entry).generate(jobs)])
    assert np.array_equal(again, made)
    with pytest.raises(InputError, match="control is missing"):
        generator.generate([make_job(0)])
    (folder / "pixcell_controlnet.py").write_text("from diffusers.models import gone\n")
    with pytest.raises(InputError, match=r"pixcell_controlnet\.py: cannot be imported: .*gone"):
        build(entry).generate(jobs)
