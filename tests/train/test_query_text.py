"""Captions read by learned queries behind a frozen language model: trained, saved, sampled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image

from factory.catalog.catalog import load_catalogs
from factory.core.errors import InputError
from factory.data.records import Condition, Job, Request
from factory.models.generators import build_generator
from factory.models.generators.multi import MultiPipeline
from factory.models.generators.query_text import QueryTextEncoder, load_language_model
from factory.models.generators.settings import GeneratorSettings
from factory.train.batches import tokenize
from factory.train.generator.recipe import load_training_recipe
from factory.train.multi.export import _describe_reader
from factory.train.multi.settings import MultiRecipe
from factory.train.multi.train import MultiTrainer
from tests import parts

QUERIES = 3


def save_language_model(folder: Path, kind: str = "gpt2") -> Path:
    """A random language model of characters."""
    tokenizer = parts.plain_tokenizer()
    common = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            config: Any = transformers.GPT2Config(
                n_positions=80, n_embd=16, n_layer=2, n_head=2, **common
            )
        else:
            config = transformers.Qwen2Config(
                hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=96, **common,
            )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def describe(folder: Path, **changes: Any) -> dict[str, Any]:
    network = {
        **{"kind": "multi", "fold": 4, "merge": 2, "outer_dim": 16, "dim": 32, "depth": 1},
        **{"heads": 2, "stream_dim": 16, "text_dim": 32},
        "text": {"encoder": str(folder / "language"), "queries": QUERIES},
        **changes.pop("network", {}),
    }
    return {
        "name": "tiny-queries",
        "seed": 3,
        "data": {
            "image_size": 32,
            "held_out": 0.3,
            "sources": [{"images": str(folder / "images"), "labels": False}],
        },
        "captions": {"kind": "measured", "grid": "he-attributes"},
        "network": network,
        "training": {"steps": 3, "batch_size": 4, "warmup_steps": 1, "decay_steps": 0},
        "validation": {"every": 100, "images": 4},
        "sampling": {"steps": 2, "scheduler": "FlowMatchEulerDiscrete"},
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("queries")
    save_language_model(root / "language")
    (root / "images/plain").mkdir(parents=True)
    for number in range(10):
        draw = np.random.default_rng(number)
        pixels = np.full((32, 32, 3), (225, 140, 190)) + draw.integers(-30, 30, (32, 32, 3))
        pixels[4 : 8 + number, 8:20] = (90, 50, 150)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            root / f"images/plain/{number}.png"
        )
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, dict[str, Any]]:
    recipe = MultiRecipe.model_validate(describe(folder))
    found = MultiTrainer.open(recipe, load_catalogs(), folder / "model").train(lambda *state: None)
    assert found is not None
    return folder / "model", found


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_queries_read_a_caption_whatever_pads_it_and_whoever_is_beside_it(
    tmp_path: Path, kind: str
) -> None:
    tokenizer, model = load_language_model(save_language_model(tmp_path / kind, kind), 60)
    encoder = QueryTextEncoder.of(model, QUERIES, 8).train()
    texts = ("dense nuclei", "", "a much longer caption, pale eosin")
    read, mask = encoder.encode_captions(*tokenize(tokenizer, texts))
    assert read.shape == (3, QUERIES, 8) and mask.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert torch.isfinite(read).all() and not torch.allclose(read[0], read[2])
    for row, text in enumerate(texts):
        alone, _ = encoder.encode_captions(*tokenize(tokenizer, (text,)))
        if text:
            assert torch.allclose(alone[0], read[row], atol=1e-5)
    read.square().sum().backward()
    assert all(each.grad is None for each in encoder.language_model.parameters())
    assert encoder.queries.grad is not None and encoder.queries.grad.abs().max() > 0
    assert not encoder.language_model.training
    encoder.save_pretrained(tmp_path / "saved")
    again, _ = QueryTextEncoder.from_pretrained(tmp_path / "saved").encode_captions(
        *tokenize(tokenizer, texts)
    )
    assert torch.equal(again, read)


def test_queries_learn_and_the_language_model_stays_as_it_is(
    folder: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    out, measured = trained
    assert {name for name in measured if name.startswith("gap_")} == {"gap_caption"}
    pipeline = MultiPipeline.from_pretrained(out)
    reader = pipeline.text_encoder
    _, before = load_language_model(folder / "language", 60)
    kept, told = reader.language_model.state_dict(), before.half().state_dict()
    assert kept.keys() == told.keys()  # all is exported in half precision
    assert all(torch.equal(kept[name].half(), value) for name, value in told.items())
    assert reader.queries.shape == (QUERIES, 16)
    recipe = MultiRecipe.model_validate(describe(folder))
    fresh = MultiTrainer.open(recipe, load_catalogs(), folder / "fresh").network.text_encoder
    assert not torch.equal(fresh.queries, reader.queries)
    assert not torch.equal(fresh.project.weight, reader.project.weight)
    entry = yaml.safe_load((out / "models/tiny-queries.yaml").read_text())
    assert "caption" in entry["optional"]
    assert "3 learned queries behind the frozen language model" in (out / "README.md").read_text()


def test_a_training_goes_on_with_the_queries_of_its_start(
    folder: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    changes = {"init": str(trained[0]), "network": {"text": None}}
    recipe = MultiRecipe.model_validate(describe(folder, **changes))
    trainer = MultiTrainer.open(recipe, load_catalogs(), tmp_path / "more")
    start, reader = MultiPipeline.from_pretrained(trained[0]), trainer.network.text_encoder
    assert isinstance(reader, QueryTextEncoder)
    assert not any(each.requires_grad for each in reader.language_model.parameters())
    assert reader.queries.requires_grad
    for name, value in start.text_encoder.state_dict().items():
        assert torch.equal(reader.state_dict()[name], value.float()), name
    assert "learned queries of" in _describe_reader(recipe, trainer._material)
    assert trainer.assemble(trainer.network).tokenizer.get_vocab() == start.tokenizer.get_vocab()


def test_a_row_is_made_of_its_own_caption_alone(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = trained
    # So few steps leave what streams say to the image at zero, where training begins.
    pipeline = MultiPipeline.from_pretrained(out)
    for block in pipeline.transformer.blocks:
        torch.nn.init.normal_(block.cross_out.weight, std=0.5)
    torch.nn.init.normal_(pipeline.transformer.leave.weight, std=0.1)
    pipeline.save_pretrained(tmp_path / "loud")
    settings = GeneratorSettings(model=str(tmp_path / "loud"), steps=2, batch_size=3, guidance=2.0)
    generator = build_generator(settings, None, Path())

    def make(caption: str, number: int = 0) -> Job:
        return Job(Request("s", number, Condition(None, caption), number), 0, 5)

    jobs = [make("dense nuclei"), make("pale eosin, few nuclei"), make("a")]
    together = [each.pixels for each in generator.generate(jobs)]
    for job, pixels in zip(jobs, together, strict=True):
        assert np.array_equal(generator.generate([job])[0].pixels, pixels)
    assert not np.array_equal(together[0], together[1])


def test_training_without_it_is_described_as_before_there_was_any(
    folder: Path, tmp_path: Path
) -> None:
    plain = MultiRecipe.model_validate(
        describe(folder, network={"text": None, "text_layers": 1, "vocabulary": 400})
    )
    described = MultiTrainer.open(plain, load_catalogs(), tmp_path / "plain").describe()
    assert "text" not in described["network"]
    own = MultiTrainer.open(
        MultiRecipe.model_validate(describe(folder)), load_catalogs(), tmp_path / "own"
    ).describe()
    assert own["network"]["text"]["queries"] == QUERIES
    assert len(own["network"]["text"]["weights_sha256"]) == 64
    assert str(folder) not in json.dumps(own)  # a moved folder is the same model


def test_what_cannot_read_captions_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with a config\.json"):
        load_language_model(tmp_path / "gone", 60)
    with pytest.raises(InputError, match="has 80 places, 81 are needed: lower queries"):
        load_language_model(folder / "language", 81)
    config = transformers.T5Config(vocab_size=200, d_model=8, d_kv=4, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path / "t5")
    parts.plain_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="T5Model takes no position_ids"):
        load_language_model(tmp_path / "t5", 60)
    for change, fault in (
        ({"captions": None}, "network.text: reads captions: say captions"),
        ({"init": "he-multi"}, "init: goes on with the model's own reader"),
    ):
        with pytest.raises(ValueError, match=fault):
            MultiRecipe.model_validate(describe(folder, **change))


def test_the_folder_is_looked_for_from_the_recipe(folder: Path, tmp_path: Path) -> None:
    described = describe(folder, network={"text": {"encoder": "language"}})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(described))
    recipe, _ = load_training_recipe(path)
    assert isinstance(recipe, MultiRecipe) and recipe.network.text is not None
    assert recipe.network.text.encoder == tmp_path / "language"
    assert recipe.network.text.queries == 16
