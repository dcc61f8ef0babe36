"""`factory models adopt`: what is proved of a model, and the entry that recipes can name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from factory import api
from factory.catalog.catalog import load_catalogs
from factory.catalog.licences.terms import Term, combine_terms
from factory.cli import main
from factory.core.errors import InputError
from factory.models.adoption import proofs
from factory.models.generators.families.diffusers import DiffusersFamily
from factory.recipe.licences import suggest_licence
from tests import ROOT
from tests.documents import list_blocks, list_steps
from tests.pipelines import save_pipeline

SMALL = {"width": 32, "height": 32, "steps": 2, "largest_batch": 2}
TEXT = "StableDiffusionPAGPipeline"  # of no family of its own


def call(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (words, result.output, result.stderr)
    return result.stdout


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("adopted")

    def find(name: str) -> Path:
        return root / name if (root / name).exists() else save_pipeline(name, root / name)

    return find


def adopt(folder: Path, out: Path, **settings: Any) -> Any:
    (out / "models").mkdir(parents=True, exist_ok=True)
    return api.adopt_model(str(folder), out / "models" / "mine.yaml", **{**SMALL, **settings})


@pytest.mark.slow("test_a_model_that_mixes_the_images_of_a_call_makes_one_a_call")
def test_the_page_works_as_typed(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide on a tiny pipeline whose card states its terms: commands, entry, recipe, rows."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved(TEXT), "path/to/pipeline")
    Path("path/to/pipeline/README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    page = (ROOT / "docs" / "guides" / "models.md").read_text(encoding="utf-8")
    blocks = list_blocks(page, "guide")
    adopting, show, check, run = [
        step.list_words() for step in list_steps(blocks) if step.block.language == "bash"
    ]
    small = ["--width", "32", "--height", "32", "--steps", "2", "--largest-batch", "2"]
    said = call(*adopting[1:], *small, code=1)
    assert "proven      caption: exchanging it changes the image" in said
    assert "proven      a row of a batch is the row alone (bit-equal)" in said
    assert "NOT PROVEN  memory: not measured on cpu" in said
    written = yaml.safe_load(Path("mine/models/bought.yaml").read_text())
    assert written["source"] == "../../path/to/pipeline"
    assert written["optional"] == ["caption", "class_name", "reference"]
    assert written["guidance_kind"] == "step" and written["one_per_call"] is False
    assert written["licence"]["id"] == "apache-2.0"
    assert written["measured"]["batch_sizes"] == [1, 2]
    assert 1 < written["measured"]["caption_words"] < 77  # letters are tokens of the tiny CLIP
    call(*show[1:])
    call(*check[1:])
    options = ["generator.batch_size=2", "generator.width=null", "generator.height=null"]
    call(
        *run[1:],
        *(
            word
            for each in ("conditions.0.per_class={tumor: 2}", *options)
            for word in ("--set", each)
        ),
    )
    verified = call("verify", "runs/bought", "--regenerate", "2", "--base", ".", "--json")
    assert json.loads(verified)["sound"]


def test_a_stream_that_is_not_heeded_is_named(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = DiffusersFamily.bind

    def forget(self: Any, conditions: Any, model: Any) -> Any:
        return {**bind(self, conditions, model), "prompt": ["always this"] * len(conditions)}

    monkeypatch.setattr(DiffusersFamily, "bind", forget)
    found = adopt(saved(TEXT), tmp_path)
    assert any(each.startswith("caption: exchanging it changes nothing") for each in found.unproven)
    assert "caption" not in found.entry.optional
    assert found.entry.measured.caption_words == 0
    text = found.path.read_text()
    assert "# NOT PROVEN: caption: exchanging it changes nothing" in text


def test_a_model_that_mixes_the_images_of_a_call_makes_one_a_call(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an IP-Adapter does: what stands in row 0 is heeded in every row, without an error."""
    bind = DiffusersFamily.bind

    def mix(self: Any, conditions: Any, model: Any) -> Any:
        bound = bind(self, conditions, model)
        return {**bound, "prompt": [bound["prompt"][0]] * len(conditions)}

    monkeypatch.setattr(DiffusersFamily, "bind", mix)
    monkeypatch.setattr(proofs, "WORDS", 4)
    found = adopt(saved(TEXT), tmp_path)
    assert found.entry.one_per_call is True
    assert any("images mix" in each for each in found.proven)
    entry = load_catalogs([tmp_path]).find_model("mine")
    assert entry == found.entry.model_copy(update={"source": entry.source})
    assert entry.measured is not None and entry.measured.batch_sizes == (1,)


def test_what_is_made_with_a_model_without_terms_has_no_licence() -> None:
    terms = {"id": "unanswered", "date_read": "2026-11-26", "note": "Fill in"}
    verdict = combine_terms([Term("generator", "mine", terms)])
    assert verdict.restrictions[0] == "unanswered"
    assert suggest_licence(verdict) is None
    assert "nobody has read the terms: fill in licence" in verdict.describe()[0]


def test_a_place_where_no_entry_can_be_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "there.yaml").write_text("id: there\n")
    for name, words in (
        ("entry.yaml", "a file ID.yaml in the folder models"),
        ("models/Some Thing.yaml", "'Some Thing' is no id"),
        ("models/there.yaml", "is there already"),
    ):
        with pytest.raises(InputError, match=words):
            api.adopt_model("nobody/nothing", tmp_path / name)
    call("models", "adopt", "nobody/nothing", "--out", str(tmp_path / "x.yaml"), code=2)


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    out = tmp_path / "models" / "x.yaml"
    with pytest.raises(InputError, match=r"no folder .* and not a Hub id"):
        api.adopt_model("nowhere", out)
    result = CliRunner().invoke(main, ["models", "adopt", "nobody/nothing", "--out", str(out)])
    assert result.exit_code == 3 and "not in the local cache" in result.stderr
    assert not out.exists()
