"""`factory models adopt`: what is proved of a model, and the entry that recipes can name."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from factory import api
from factory.catalog.catalog import load_catalogs
from factory.catalog.entries import LicenceTerms, ModelEntry
from factory.catalog.licences.known import UNANSWERED
from factory.catalog.licences.terms import Term, combine_terms
from factory.cli import main
from factory.core.errors import CallError, GenerationError, InputError, OutOfMemoryError
from factory.models import adoption
from factory.models.adoption import proofs
from factory.models.adoption.entry import read_terms
from factory.models.adoption.trials import Trials
from factory.models.generators.families.diffusers import DiffusersFamily
from factory.models.generators.loading import load_model
from factory.models.generators.settings import GeneratorSettings
from factory.recipe.licences import suggest_licence
from tests import ROOT, tiny
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
    assert re.search(r"proven      memory: \d\.\d\d GB at most \(resident, of the whole", said)
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


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_that_no_recipe_can_ask_for_is_told_before_loading(
    side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "_load", lambda *_: pytest.fail("was loaded"))
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    out = str(tmp_path / "models" / "mine.yaml")
    words = ["models", "adopt", str(tmp_path), "--out", out, f"--{side}", "36"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    said = f"{side}: must be a multiple of 8 px, as autoencoders shrink by 8, got 36: give --{side}"
    assert f"{said} 32 or 40" in result.stderr


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


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("license: other\nlicense_name: no-sale\nlicense_link: LICENSE.md", "no-sale"),
        ("license: unknown", "license: unknown"),
        ("license: [cc-by-nc-4.0, mit]", "cc-by-nc-4.0"),
        ("license: house-terms", "house-terms"),
        ("tags: [x]", "Fill in from the model's page"),
    ],
)
def test_terms_that_a_card_leaves_open_are_unanswered(
    header: str, kept: str, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n# Mine\n")
    terms = read_terms(str(tmp_path), tmp_path, None)
    assert terms.id == UNANSWERED and kept in terms.note and terms.url == ""
    assert suggest_licence(combine_terms([Term("generator", "x", terms.model_dump())])) is None


def test_terms_of_a_card_are_read_by_the_ids_that_factory_knows(tmp_path: Path) -> None:
    folder = tmp_path / "models--maker--model" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    card = "---\nlicense: CC-BY-NC-4.0\nextra_gated_heading: x\n{}---\n"
    (folder / "README.md").write_text(card.format(""))
    terms = read_terms(str(folder), folder, None)
    assert (terms.id, terms.gated) == ("cc-by-nc-4.0", True)
    assert terms.url == "https://huggingface.co/maker/model"
    (folder / "README.md").write_text(card.format("license_link: LICENSE.md\n"))
    assert read_terms(str(folder), folder, None).url == f"{terms.url}/blob/main/LICENSE.md"


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


# --- what the user tells is heeded when the model is loaded ---------------------------------------


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adoption up to the proofs, and from them on."""

    def skip(trials: Any, entry: Any, settings: Any, found: Any) -> None:
        found.fields |= {"seconds_per_image": 0.1, "batch_sizes": (1,)}
        found.optional += entry.optional

    monkeypatch.setattr(adoption, "_prove", skip)


def test_own_code_runs_by_consent_which_the_entry_keeps(
    saved: Any, tmp_path: Path, unproved: None
) -> None:
    folder, ran = tmp_path / "own", tmp_path / "ran"
    shutil.copytree(saved(TEXT), folder)
    code = f"open({str(ran)!r}, 'w').close()\nfrom diffusers import {TEXT}\n"
    (folder / "pipeline.py").write_text(f"{code}\nclass Mine({TEXT}):\n    pass\n")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "Mine"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"own code \(pipeline\.py\): .*trust_remote_code: true"):
        adopt(folder, tmp_path)
    assert not ran.exists()
    made = adopt(folder, tmp_path, trust_remote_code=True, dtype="bfloat16")
    assert ran.exists() and made.entry.remote_code and "of own" in made.entry.title
    entry = load_catalogs([tmp_path]).find_model("mine")
    assert entry.remote_code and "caption" in entry.optional
    with pytest.raises(InputError, match="trust_remote_code: true"):
        api.check_model("mine", [tmp_path])


def test_code_of_a_component_is_own_code(saved: Any, tmp_path: Path, unproved: None) -> None:
    folder = tmp_path / "own"
    shutil.copytree(saved(TEXT), folder)
    (folder / "unet" / "mine.py").write_text("raise SystemExit\n")
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["mine", "Net"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"own code \(unet/mine\.py\)"):
        adopt(folder, tmp_path)


def test_trust_is_no_consent_where_there_is_no_own_code(
    saved: Any, tmp_path: Path, unproved: None
) -> None:
    made = adopt(saved(TEXT), tmp_path, trust_remote_code=True, dtype="float16")
    assert (made.entry.remote_code, made.entry.dtype) == (False, "float16")


def test_classes_device_and_dtype_are_those_that_are_told(
    saved: Any, tmp_path: Path, unproved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def load(family: Any) -> Any:
        used.append((family.settings.device, family.settings.dtype))
        return load_model(family)

    monkeypatch.setattr("factory.models.generators.diffusers.load_model", load)
    (tmp_path / "models").mkdir()
    words = ["models", "adopt", str(saved("DiTPipeline"))]
    words += ["--out", str(tmp_path / "models" / "x.yaml")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "names no classes" in result.stderr
    names = ", ".join(tiny.CLASS_NAMES)
    call(*words, "--classes", names, "--device", "cpu", "--dtype", "bfloat16", code=1)
    entry = load_catalogs([tmp_path]).find_model("x")
    assert entry.class_names == tiny.CLASS_NAMES and entry.dtype == "bfloat16"
    assert used[-1] == ("cpu", "bfloat16")


@pytest.mark.parametrize("given", ["axb", "16", "0x4", "16x1536x2"])
def test_an_embedding_of_no_size_is_a_usage_error(given: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    words = ["models", "adopt", "nobody/nothing", "--out", str(tmp_path / "models" / "x.yaml")]
    result = CliRunner().invoke(main, [*words, "--embedding", given])
    assert result.exit_code == 2 and "is not TOKENSxDIM" in result.output


# --- what counts as a proof, on a model of drawn pixels -------------------------------------------


class Drawn:
    """A generator of flat images: their level is the sum of what their conditions hold."""

    def __init__(self, alone: bool, leak: int) -> None:
        self.batch_size, self.leak = 1 if alone else 2, 0 if alone else leak

    def halve_batch(self) -> None:
        self.batch_size = 1

    def draw(self, jobs: Any) -> Any:
        levels = [10 * job.request.index for job in jobs]
        levels[-1] += self.leak * levels[0] // 10 if len(jobs) > 1 else 0
        return np.array(levels, np.int16)[:, None, None, None].repeat(3, -1)


def make_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, leak: int = 0) -> Trials:
    terms = LicenceTerms(id=UNANSWERED, date_read="2026-11-26")
    sizes = {"width": 8, "height": 8, "steps": 1, "guidance": 1}
    entry = ModelEntry(
        id="x", source="x", family="dit", licence=terms, class_names=("a", "b"), **sizes
    )

    def build(self: Trials, **changes: Any) -> Drawn:
        return Drawn(self.entry.one_per_call is True, leak)

    monkeypatch.setattr(Trials, "build", build)
    monkeypatch.setattr(proofs, "sample", lambda generator, jobs: generator.draw(jobs))
    return Trials(entry, GeneratorSettings(model="x"), None, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("leak", "effect", "alone"), [(0, 0, False), (1, 9, False), (1, 2, True), (3, 200, True)]
)
def test_rows_that_differ_are_judged_by_what_the_stream_does(
    leak: int, effect: int, alone: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials, found = make_trials(monkeypatch, tmp_path, leak), proofs.Found()
    found.effects["class_name"] = effect
    proofs.prove_rows(trials, ["class_name"], False, found)
    assert found.fields["one_per_call"] is alone


@pytest.mark.parametrize(
    ("error", "proves"),
    [(CallError, True), (InputError, False), (GenerationError, False), (OutOfMemoryError, False)],
)
def test_only_a_call_that_fails_proves_something(
    error: type[Exception], proves: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials, found = make_trials(monkeypatch, tmp_path), proofs.Found()

    def fail(self: Any, jobs: Any) -> Any:
        raise error("it is so")

    monkeypatch.setattr(Drawn, "draw", fail)
    proofs.prove_rows(trials, ["class_name"], False, found)
    assert found.fields["one_per_call"] is (True if proves else None)
    first, rest = np.zeros((1, 1, 3), np.int16), trials.make_streams(0, ["class_name"], False)
    proofs._prove_absence(Drawn(True, 0), "embedding", rest, first, found)  # type: ignore[arg-type]
    assert found.required == ["embedding"]
    assert len(found.proven if proves else found.unproven) == 2
    assert not (found.unproven if proves else found.proven)


def test_leaving_out_the_only_stream_is_not_claimed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials, found = make_trials(monkeypatch, tmp_path), proofs.Found()
    monkeypatch.setattr(
        Drawn, "draw", lambda self, jobs: np.full((1, 1, 1, 3), len(str(jobs[0].condition)))
    )
    first = np.zeros((1, 1, 3), np.int16)
    proofs.prove_streams(trials, ["class_name"], False, first, found)
    assert found.required == ["class_name"]
    assert found.unproven == ["class_name: leaving it out was not tried: it is the only stream"]


@pytest.mark.parametrize("heeded", [True, False])
def test_rows_are_proved_with_an_image_to_vary_too(
    heeded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials, found, tried = make_trials(monkeypatch, tmp_path), proofs.Found(), []
    streams = ("class_name", "reference")
    trials = trials.change(optional=streams)

    def note(trials: Any, names: Any, whole: bool, found: Any) -> None:
        tried.append(list(names))
        found.fields.setdefault("one_per_call", False)

    def vary(trials: Any, names: Any, whole: bool, first: Any, found: Any) -> None:
        found.optional += ["reference"] if heeded else []

    for name in ("prove_sampling", "prove_streams", "prove_guidance", "count_words", "measure"):
        monkeypatch.setattr(adoption, name, lambda *given: None)
    monkeypatch.setattr(adoption, "is_whole", lambda generator: True)
    monkeypatch.setattr(adoption, "prove_rows", note)
    monkeypatch.setattr(adoption, "prove_reference", vary)
    adoption._prove(trials, trials.entry, adoption.AdoptionSettings(), found)
    assert tried == [["class_name"], list(streams)][: 2 if heeded else 1]
    assert found.fields["one_per_call"] is (False if heeded else None)
