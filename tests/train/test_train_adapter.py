"""Adapting models to a few images: what is learnt, kept, refused, and what a recipe makes of it."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from factory.catalog.catalog import load_catalogs
from factory.core.errors import CatalogError, InputError, MismatchError, SourceError
from factory.data.patients import read_patients
from factory.data.records import Condition, Job, Request
from factory.models.generators import build_generator
from factory.models.generators.settings import GeneratorSettings
from factory.models.generators.weights import hash_file
from factory.models.session import Session
from factory.recipe.conditions import build_series
from factory.recipe.recipe import Recipe
from factory.train.adapter.loop import AdapterTraining, Material, draw_shots
from factory.train.adapter.settings import AdapterSettings
from factory.train.adapter.shots import choose_all_shots
from factory.train.adapter.train import train_adapter
from factory.train.copies import CopyMeter
from factory.train.generator.objectives import find_objective
from factory.train.generator.objectives.base import CLASSLESS, WEIGHTS, Subject
from tests import tiny
from tests.running import call, read_rows, run, write_recipe

SIZE = 32
TEXT = ("stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3")
OWN = ("flow", "multi")
EVERY = (*TEXT, *OWN)
LICENCE = {
    "id": "openrail",
    "date_read": "2026-11-20",
    "attribution": ["Somebody et al."],
    "note": "Use with care.",
}
PALE, DARK = (235, 190, 225), (80, 40, 130)


def draw_tissue(colour, seed):
    """Returns (SIZE, SIZE, 3) uint8: a colour with blots, other ones for each seed."""
    draw = np.random.default_rng(seed)
    blots = draw.normal(0, 14, (8, 8, 1)).repeat(4, 0).repeat(4, 1)
    return np.clip(np.array(colour) + blots, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes of four images: `dark` and `pale_pink`."""
    root = tmp_path_factory.mktemp("few") / "patches"
    for offset, (name, colour) in enumerate({"dark": DARK, "pale_pink": PALE}.items()):
        (root / name).mkdir(parents=True)
        for index in range(4):
            image = Image.fromarray(draw_tissue(colour, 10 * offset + index))
            image.save(root / name / f"p{index // 2}_{index}.png")
    return root


@pytest.fixture(scope="session")
def catalog(tmp_path_factory):
    """A catalog with a tiny model of each family, that samples in few steps."""
    root = tmp_path_factory.mktemp("catalog")
    (root / "models").mkdir()
    for family in (*EVERY, "dit"):
        tiny.save_tiny(family, root / "models" / family)
        entry = {
            "id": f"tiny-{family}",
            "title": f"Tiny {family}",
            "source": f"./{family}",
            "family": family,
            "width": SIZE,
            "height": SIZE,
            "mpp": 0.5,
            "steps": 3,
            "guidance": 1.0 if family in OWN else 2.0,
            "dtype": "float32",
            "training_data": ["noise"],
            "labels_seen": False,
            "licence": LICENCE,
        }
        if family == "stable-diffusion-3":
            entry["pipeline_arguments"] = {"max_sequence_length": 16}
        if family in (*OWN, "dit"):
            entry["class_names"] = list(tiny.CLASS_NAMES)
        (root / "models" / f"tiny-{family}.yaml").write_text(yaml.safe_dump(entry))
    return root


def settle(data, family="flow", **changes):
    values = {
        "base": f"tiny-{family}",
        "data": data,
        "shots": 2,
        "seed": 5,
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "rank": 4,
        "prior_images": 2,
        "check_every": 2,
        "check_images": 2,
    }
    return AdapterSettings(**{**values, **changes})


def adapt(settings, catalog, out, report=lambda line: None):
    return train_adapter(settings, load_catalogs([catalog]), out, report)


def open_base(catalog, family, **changes):
    entry = load_catalogs([catalog]).find_model(f"tiny-{family}")
    settings = GeneratorSettings(model=entry.id, batch_size=4, **changes)
    return build_generator(settings, entry, Path())


def open_objective(catalog, data, family, **changes):
    objective_class = find_objective(family, family)
    settings = objective_class.choices.settle(settle(data, family, **changes))
    shots = {"dark": torch.zeros(1, 3, SIZE, SIZE), "pale_pink": torch.ones(1, 3, SIZE, SIZE)}
    words = {"dark": "dark", "pale_pink": "pale pink"}
    generator = open_base(catalog, family, guidance=settings.guidance)
    return objective_class(Subject(generator, settings, words, shots))


# --- what is learnt, and what a recipe makes of it -----------------------------------------------


@pytest.fixture(scope="session")
def adapted(catalog, data, tmp_path_factory):
    """The tiny flow model adapted in earnest: (folder, result)."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    settings = settle(
        data,
        steps=60,
        batch_size=8,
        shots=4,
        rank=16,
        check_every=30,
        group_pattern=r"(p\d)_",
        about="drawn for tests, CC0",
        mpp=2.0,
    )
    return out, adapt(settings, catalog, out)


def write_adapted_recipe(folder, adapter, catalog, model, count=4):
    return write_recipe(
        folder,
        catalogs=[str(adapter), str(catalog)],
        generator={"model": model, "batch_size": 4, "width": None, "height": None},
        conditions=[{"kind": "class", "per_class": {"dark": count, "pale_pink": 4}}],
        filters=[],
    )


def test_an_adapted_model_makes_its_classes_in_a_recipe(adapted, catalog, tmp_path):
    out, result = adapted
    run(write_adapted_recipe(tmp_path, out, catalog, result.id), tmp_path / "run")
    rows = read_rows(tmp_path / "run")
    means = {}
    for name in ("dark", "pale_pink"):
        made = [row["image"]["bytes"] for row in rows if row["class_name"] == name]
        assert len(made) == 4
        pixels = [np.asarray(Image.open(io.BytesIO(each))) for each in made]
        means[name] = np.mean(pixels, axis=(0, 1, 2))
    for name, own, other in (("dark", DARK, PALE), ("pale_pink", PALE, DARK)):
        near, far = (np.abs(means[name] - colour).mean() for colour in (own, other))
        assert near < 0.6 * far, means
    (described,) = json.loads(rows[0]["provenance"])["generator"]["adapters"]
    assert (described["sha256"], described["scale"]) == (result.sha256, 1.0)
    assert described["source"] == "out"  # no path: rows tell no one's disk
    card = (tmp_path / "run" / "README.md").read_text()
    assert result.sha256 in card and "Somebody et al." in card


def test_other_adapter_weights_are_another_model(adapted, catalog, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    out, result = adapted
    run(write_adapted_recipe(tmp_path, out, catalog, result.id), tmp_path / "run")
    shutil.copytree(out / "models", tmp_path / "other" / "models")
    with safe_open(out / WEIGHTS, framework="pt") as file:
        tensors = {key: 1.01 * file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors, tmp_path / "other" / WEIGHTS, file.metadata())
    more = write_adapted_recipe(tmp_path, tmp_path / "other", catalog, result.id, count=5)
    with pytest.raises(MismatchError, match="adapters"):
        run(more, tmp_path / "run", extend=True)
    changed = write_adapted_recipe(tmp_path, tmp_path / "other", catalog, result.id)
    run(changed, tmp_path / "again")
    first, second = (read_rows(tmp_path / name) for name in ("run", "again"))
    assert len({row["sample_id"] for row in (*first, *second)}) == 16
    shutil.rmtree(tmp_path / "other" / "models")
    (tmp_path / "other" / WEIGHTS).unlink()
    with pytest.raises(InputError, match="no catalog"):
        run(changed, tmp_path / "again")


def test_what_an_adaptation_leaves_behind(adapted, catalog):
    out, result = adapted
    assert result.exit_code == 0 and hash_file(out / WEIGHTS) == result.sha256
    log = [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "copies" not in line]
    assert [line["step"] for line in log if "copies" in line] == [30, 60]
    assert losses[-1] < 0.7 * losses[0]

    entry = load_catalogs([out, catalog]).find_model(result.id)
    base = load_catalogs([catalog]).find_model("tiny-flow")
    assert (entry.base, entry.source, entry.licence) == ("tiny-flow", base.source, base.licence)
    assert entry.class_names == (*tiny.CLASS_NAMES, "dark", "pale_pink")
    assert (entry.mpp, entry.labels_seen) == (2.0, True)
    shots = "4 labelled images each of dark, pale_pink: drawn for tests, CC0"
    assert entry.training_data == ("noise", shots)

    card = (out / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "openrail" and "lora" in header["tags"]
    for text in ("Somebody et al.", "Use with care.", result.sha256, "2 patients or slides"):
        assert text in card
    written = card + (out / "models" / f"{result.id}.yaml").read_text()
    assert str(out.parent) not in written and str(catalog) not in written
    assert Image.open(out / "samples.png").size == (2 * SIZE, 2 * SIZE)
    seen = read_patients(out)
    assert (seen.images, len(seen.groups), seen.is_whole) == (8, 2, True)


def test_models_show_and_check_know_an_adapted_entry(adapted, catalog):
    out, result = adapted
    folders = ["--catalog", str(out), "--catalog", str(catalog)]
    shown = call("models", "show", result.id, *folders)
    assert shown.exit_code == 0 and "base: tiny-flow" in shown.stdout
    checked = call("models", "check", result.id, *folders)
    assert checked.exit_code == 0, checked.output
    assert "loads and samples here (32x32 px" in checked.stdout


def test_an_adapted_model_can_be_adapted_again(adapted, catalog, data, tmp_path):
    out, result = adapted
    catalogs = load_catalogs([out, catalog])
    again = train_adapter(settle(data, base=result.id, id="again"), catalogs, tmp_path / "2", print)
    entry = load_catalogs([tmp_path / "2", out, catalog]).find_model("again")
    assert entry.base == result.id and len(entry.adapters) == 2
    assert entry.class_names == (*tiny.CLASS_NAMES, "dark", "pale_pink")
    generator = build_generator(GeneratorSettings(model="again", batch_size=1), entry, Path())
    digests = [each["sha256"] for each in generator.describe()["adapters"]]
    assert digests == [result.sha256, again.sha256]


def make_jobs(**streams):
    requests = [Request("series", index, Condition(**streams), index) for index in range(2)]
    return [Job(request, 0, 100 + request.index) for request in requests]


@pytest.mark.parametrize(
    "family", [*(pytest.param(each, marks=pytest.mark.slow) for each in TEXT), *OWN]
)
def test_the_saved_adapter_samples_what_the_trained_one_did(family, catalog, data, tmp_path):
    out = tmp_path / "out"
    result = adapt(settle(data, family, layers="all", learning_rate=5e-2), catalog, out)
    entry = load_catalogs([out, catalog]).find_model(result.id)
    generator = build_generator(GeneratorSettings(model=result.id, batch_size=2), entry, Path())
    samples = generator.generate(make_jobs(class_name="pale_pink"))

    objective = open_objective(catalog, data, family, layers="all")
    good = load_file(*out.glob("training/checkpoint-*/model_2.safetensors"))  # of the last check
    plain = objective.sample(["dark" if family in OWN else "pale_pink"] * 2, [100, 101])
    with torch.no_grad():
        for number, parameter in enumerate(objective.parameters.values()):
            parameter.copy_(good[str(number)])
    trained = objective.sample(["pale_pink"] * 2, [100, 101])
    for row, sample in enumerate(samples):  # merging rounds otherwise than adding
        apart = np.abs(sample.pixels.astype(int) - trained[row]).max()
        moved = np.abs(sample.pixels.astype(int) - plain[row]).max()
        assert apart <= 1 < 4 * apart + 2 < moved, (apart, moved)
    if family not in OWN:
        assert samples[0].prompt == "H&E histopathology patch, pale pink"
        assert entry.class_names == ("dark", "pale_pink")
        with pytest.raises(InputError, match="no class 'tumor'"):
            generator.generate(make_jobs(class_name="tumor"))


# --- objectives ----------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """Knows the clean latents, and predicts from them what a perfect model would."""

    def __init__(self, network, objective, pixels, target):
        super().__init__()
        self.config, self.dtype, self.target = network.config, torch.float32, target
        with torch.no_grad():  # the tiny autoencoders are sure of their latents
            self.clean = objective._encode_images(pixels, torch.Generator())
        self.seen = {}

    def forward(self, noisy=None, times=None, states=None, **arguments):
        from diffusers import DDPMScheduler

        self.seen = {**arguments, "states": states}
        noisy = arguments.get("hidden_states", noisy)
        times = arguments.get("timestep", times)
        if self.target == "flow":
            sigma = (times / 1000).view(-1, 1, 1, 1)
            predicted = (noisy - (1 - sigma) * self.clean) / sigma - self.clean
        else:
            schedule = DDPMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
            )
            alpha = schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
            noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
            velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean
            predicted = noise if self.target == "epsilon" else velocity
        return type("Output", (), {"sample": predicted})


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("stable-diffusion", "epsilon"),
        ("stable-diffusion", "v_prediction"),
        ("stable-diffusion-xl", "epsilon"),
        ("stable-diffusion-3", "flow"),
    ],
)
def test_a_perfect_model_has_no_loss(family, target, catalog, data, monkeypatch):
    from diffusers import DDIMScheduler

    if target == "v_prediction":
        load = DDIMScheduler.from_config.__func__
        monkeypatch.setattr(
            DDIMScheduler,
            "from_config",
            classmethod(lambda cls, *a, **kw: load(cls, *a, **{**kw, "prediction_type": target})),
        )
    objective = open_objective(catalog, data, family)
    pixels = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    oracle = Oracle(objective._network, objective, pixels, target)
    wrong = Oracle(objective._network, objective, pixels, target)
    wrong.clean = oracle.clean + 1.0
    objective._network = wrong
    conditions = ["dark", CLASSLESS, None]
    draw = torch.Generator().manual_seed(3)
    assert objective.compute_losses(pixels, conditions, draw)[0] > 0.01
    objective._network = oracle
    losses = objective.compute_losses(pixels, conditions, torch.Generator().manual_seed(3))
    assert losses.shape == (3,) and float(losses.detach().abs().max()) < 1e-4
    prompts = [objective.write_prompt(condition) for condition in conditions]
    assert prompts == ["H&E histopathology patch, dark", "H&E histopathology patch", ""]
    if family == "stable-diffusion-xl":
        added = oracle.seen["added_cond_kwargs"]
        assert added["time_ids"].tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 3
        assert added["text_embeds"][0].any() and not added["text_embeds"][2].any()
        assert oracle.seen["states"][1].any() and not oracle.seen["states"][2].any()


def test_a_base_that_predicts_samples_is_refused(catalog, data, monkeypatch):
    from diffusers import DDIMScheduler

    load = DDIMScheduler.from_config.__func__
    monkeypatch.setattr(
        DDIMScheduler,
        "from_config",
        classmethod(lambda cls, *a, **kw: load(cls, *a, **{**kw, "prediction_type": "sample"})),
    )
    with pytest.raises(InputError, match="predicts 'sample'"):
        open_objective(catalog, data, "stable-diffusion")


@pytest.mark.parametrize(("family", "rows"), [("flow", 5), ("multi", 2)])
def test_only_the_rows_of_the_adapted_classes_move(family, rows, catalog, data):
    objective = open_objective(catalog, data, family)
    table = objective.parameters["class_embedding"]
    assert len(table) == rows  # of multi those of adapters alone
    draw = torch.Generator().manual_seed(0)
    losses = objective.compute_losses(
        torch.zeros(4, 3, SIZE, SIZE), ["dark", None, "", "dark"], draw
    )
    torch.autograd.backward(losses.mean())
    assert table.grad is not None
    assert table.grad.any(1).tolist() == [*[False] * (rows - 2), True, False]


# --- checks for copies ---------------------------------------------------------------------------


def draw_structure(count, seed):
    draw = np.random.default_rng(seed)
    blots = draw.integers(0, 256, (count, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return blots.astype(np.uint8)


def test_copies_are_told_from_other_images():
    shots = draw_structure(3, 0)
    meter = CopyMeter(shots, None)
    assert meter.shots_similarity < meter.threshold == 0.9
    recoloured = np.clip(np.rot90(shots[0])[:, ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    blank = np.full((SIZE, SIZE, 3), 240, np.uint8)
    samples = np.stack([recoloured, *draw_structure(6, 1), blank])
    found = meter.check(samples, 7, 0.5)
    assert (found.copies, found.images, found.step) == (1 / 8, 8, 7)
    assert found.highest > 0.98 and found.median < 0.7
    assert CopyMeter(shots, 1.0).check(samples, 7, 0.5).copies == 0


def test_the_threshold_comes_from_the_shots():
    shots = draw_structure(2, 0)
    near = np.clip(shots[0].astype(int) + draw_structure(1, 5)[0] // 2.5, 0, 255).astype(np.uint8)
    meter = CopyMeter(np.stack([*shots, near]), None)
    assert 0.9 < meter.shots_similarity == meter.threshold < 0.95
    assert CopyMeter(np.stack([*shots, shots[0]]), None).threshold == 0.95
    assert CopyMeter(np.full((3, SIZE, SIZE, 3), 200, np.uint8), None).shots_similarity == 0


class Copycat:
    """An objective that turns from noise into the first shot, as its one weight goes to 1."""

    def __init__(self, shot):
        self.shot = shot
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @property
    def parameters(self):
        return {"weight": self.weight}

    @property
    def rates(self):
        return {}

    def compute_losses(self, pixels, conditions, draw):
        return (self.weight - 1).square().expand(len(pixels))

    def sample(self, conditions, seeds):
        weight = self.weight.item()
        noise = [np.random.default_rng(seed).integers(0, 256, self.shot.shape) for seed in seeds]
        mixed = [weight * self.shot + (1 - weight) * each for each in noise]
        return np.clip(np.stack(mixed), 0, 255).astype(np.uint8)


def train_copycat(folder, data, **changes):
    folder.mkdir(exist_ok=True)
    shots = draw_structure(2, 0)
    values = {"steps": 60, "check_every": 10, "learning_rate": 0.05, "prior_weight": 0, "rank": 1}
    settings = settle(data, **{**values, **changes})
    settings = find_objective("flow", "").choices.settle(settings)
    material = Material(shots, ("a", "b"), shots[:0])
    objective = Copycat(shots[0])
    training = AdapterTraining(objective, settings, material, CopyMeter(shots, None), folder)
    return training, objective


def test_copies_stop_the_training_and_the_last_good_weights_are_kept(tmp_path, data):
    training, objective = train_copycat(tmp_path / "a", data)
    progress = training.run(lambda line: None)
    assert progress.is_stopped and 10 <= progress.good_step < progress.step < 60
    assert progress.step == progress.good_step + 10
    copies = [check.copies for check in progress.checks]
    assert copies[-1] > 0.1 and max(copies[:-1]) <= 0.1
    stopped_at = objective.weight.item()
    training.load_good()
    assert objective.weight.item() < stopped_at
    again, _ = train_copycat(tmp_path / "a", data, steps=100)
    assert again.run(lambda line: None).step == progress.step  # stopped is stopped
    free, _ = train_copycat(tmp_path / "b", data, max_copies=1.0)
    assert free.run(lambda line: None).good_step == 60


def test_copies_at_the_first_check_leave_no_adapter(catalog, data, tmp_path):
    out = tmp_path / "out"
    arguments = ["--base", "tiny-flow", "--data", data, "--shots", 2, "--steps", 4, "--rank", 2]
    arguments += ["--max-similarity", 0, "--check-every", 2, "--check-images", 2, "--batch-size", 2]
    arguments += ["--out", out, "--catalog", catalog]
    command = ["train", "adapter", *map(str, arguments)]
    for _ in range(2):  # the same command again says the same
        result = call(*command)
        assert result.exit_code == 1
        assert "NO ADAPTER: at the first check (step 2) 100% of 4 samples copy" in result.stdout
        assert [path.name for path in out.iterdir()] == ["training"]


# --- resuming ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def read_log(out):
    lines = (out / "training" / "log.jsonl").read_text().splitlines()
    return [{**json.loads(line), "time": None} for line in lines]


@pytest.mark.slow("train/test_train_generator.py::test_resumed_equals_uninterrupted")
@pytest.mark.parametrize("family", ["flow", "stable-diffusion"])
def test_a_killed_training_resumes_to_the_same_weights(family, catalog, data, tmp_path):
    settings = settle(data, family, steps=6, prior_weight=0.5, stain_jitter=0.05)
    whole = adapt(settings, catalog, tmp_path / "whole")

    def kill(line):
        if line.startswith("step 4:"):
            raise Killed

    with pytest.raises(Killed):  # after step 4 is checked, before its state is saved
        adapt(settings, catalog, tmp_path / "parts", kill)
    assert not (tmp_path / "parts" / WEIGHTS).exists()
    first = adapt(settings.model_copy(update={"steps": 4}), catalog, tmp_path / "parts")
    assert first.progress.step == 4 and first.sha256 != whole.sha256
    parts = adapt(settings, catalog, tmp_path / "parts")
    assert parts.sha256 == whole.sha256
    assert parts.to_json()["checks"] == whole.to_json()["checks"]
    logs = [read_log(tmp_path / name) for name in ("whole", "parts")]
    assert [line["step"] for line in logs[1] if "copies" not in line] == [4, 6]  # 4: it ended there
    checks = [[line for line in log if "copies" in line] for log in logs]
    assert checks[0] == checks[1] and len(checks[0]) == 3
    done = adapt(settings, catalog, tmp_path / "parts")
    assert done.sha256 == whole.sha256


def test_a_folder_of_other_settings_is_refused(catalog, data, tmp_path):
    out = tmp_path / "out"
    settings = settle(data, steps=2)
    adapt(settings, catalog, out)
    kept = [out / WEIGHTS, *(path for path in out.rglob("training/**/*") if path.is_file())]
    before = {path: path.read_bytes() for path in kept}
    with pytest.raises(MismatchError, match=r"(?s)begun with other settings.*rank: 4 -> 8"):
        adapt(settings.model_copy(update={"rank": 8}), catalog, out)
    with pytest.raises(MismatchError, match=r"(?s)base.family.*base.weights_sha256"):
        adapt(settings.model_copy(update={"base": "tiny-stable-diffusion"}), catalog, out)
    more = tmp_path / "more"
    shutil.copytree(data, more)
    Image.fromarray(draw_tissue(DARK, 99)).save(more / "dark" / "p9_9.png")
    for index in range(5):  # until one of them is chosen
        Image.fromarray(draw_tissue(DARK, 50 + index)).save(more / "dark" / f"p8_{index}.png")
    with pytest.raises(MismatchError, match=r"chosen: '[0-9a-f]{16}' -> "):
        adapt(settings.model_copy(update={"data": more}), catalog, out)
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    adapt(settings.model_copy(update={"data": moved}), catalog, out)  # files may move
    assert before == {path: path.read_bytes() for path in before}


def test_batches_depend_on_seed_and_step_only(data):
    settings = settle(data, batch_size=8, dropout=0.5)
    shots = np.stack([np.full((SIZE, SIZE, 3), 20 * index, np.uint8) for index in range(8)])
    material = Material(shots, tuple("aaaabbbb"), shots[:0])

    def draw(step):
        return draw_shots(material, settings, step, torch.Generator().manual_seed(step))

    pixels, conditions = draw(3)
    again, same = draw(3)
    assert torch.equal(pixels, again) and conditions == same
    assert len(pixels.mean((1, 2, 3)).unique()) == 8  # an epoch shows each shot once
    dropped = [name is None for step in range(20) for name in draw(step)[1]]
    assert 0.35 < np.mean(dropped) < 0.65
    for value, name in zip(pixels[:, 0, 0, 0].tolist(), conditions, strict=True):
        assert name in (None, "a" if value < -0.4 else "b")


# --- shots ---------------------------------------------------------------------------------------


def test_shots_are_those_of_reference_conditions(data):
    settings = settle(data, shots=3, seed=11, group_pattern=r"(p\d)_")
    shots = choose_all_shots(settings)
    recipe = {
        "name": "x",
        "seed": 11,
        "generator": {"model": "fake"},
        "conditions": [
            {
                "kind": "reference",
                "images": str(data),
                "shots": 3,
                "per_class": 1,
                "group_pattern": r"(p\d)_",
            }
        ],
    }
    series = build_series(Recipe.model_validate(recipe), Session.open(), ())
    expected = [(one.class_name, each.sha256) for one in series for each in one.references]
    assert [(shot.class_name, shot.sha256) for shot in shots] == expected
    groups = [reference.group_sha256 for one in series for reference in one.references]
    assert [shot.group_sha256 for shot in shots] == groups and None not in groups
    fewer = choose_all_shots(settings.model_copy(update={"shots": 2}))
    assert [shot.sha256 for shot in fewer] == [shots[row].sha256 for row in (0, 1, 3, 4)]


# --- what is refused before anything is made -----------------------------------------------------


def test_what_cannot_be_adapted_is_told_and_nothing_is_made(catalog, data, tmp_path):
    out = tmp_path / "out"
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    Image.fromarray(draw_tissue(DARK, 1)).save(unlabelled / "x.png")
    broken = tmp_path / "broken"
    (broken / "dark").mkdir(parents=True)
    (broken / "dark" / "x.png").write_bytes(b"no image")
    comma = tmp_path / "comma"
    shutil.copytree(data / "dark", comma / "dark, very")
    wrong = {
        r"has no class: put it into a folder": {"data": unlabelled},
        r"x.png: not a readable image": {"data": broken, "shots": 1},
        r"dark\): shots: 9 .* has 4 different images.*\n.*pale_pink\): shots: 9": {"shots": 9},
        r"no such file or folder": {"data": tmp_path / "missing"},
        r"'dit' cannot be adapted: take .*flow, .*stable-diffusion-3": {"base": "tiny-dit"},
        r"'fake' cannot be adapted": {"base": "fake"},
        r"no catalog id, folder or Hub id.*did you mean 'tiny-flow'": {"base": "tiny-flwo"},
        r"class 'dark' is not in the catalog pcam": {"classes": "pcam"},
        r"no entry 'pcan' in classes": {"classes": "pcan"},
        r"model_index.json: cannot be read": {"base": str(data)},
        r"no torch device": {"device": "gpu"},
    }
    for message, changes in wrong.items():
        with pytest.raises((InputError, CatalogError, SourceError), match=message):
            adapt(settle(**{"data": data, **changes}), catalog, out)
        assert not out.exists(), message
    with pytest.raises(InputError, match="rename it without a comma"):
        adapt(settle(comma), catalog, out)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        adapt(settle(data), catalog, taken)
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


def test_options_out_of_bounds_are_told_all_at_once():
    with pytest.raises(InputError) as caught:
        AdapterSettings(base="x", data=Path("x"), shots=0, learning_rate=-1, max_copies=2)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "--shots",
        "--learning-rate",
        "--max-copies",
    ]
    with pytest.raises(InputError, match=r"\{class_name\}"):
        AdapterSettings(base="x", data=Path("x"), shots=1, template="tissue")


def test_titles_of_a_catalog_stand_for_the_classes(catalog, data, tmp_path):
    root = tmp_path / "mine"
    (root / "classes").mkdir(parents=True)
    classes = [{"name": "dark", "title": "dense tissue"}, {"name": "pale_pink", "title": "stroma"}]
    entry = {"id": "tissues", "classes": [*classes, {"name": "fat", "title": "fat"}]}
    (root / "classes" / "tissues.yaml").write_text(yaml.safe_dump(entry))
    settings = settle(data, "stable-diffusion", classes="tissues", steps=2, prior_weight=0)
    settings = settings.model_copy(update={"template": "stained {class_name}", "id": "mine"})
    result = train_adapter(settings, load_catalogs([root, catalog]), tmp_path / "out", print)
    found = load_catalogs([tmp_path / "out", catalog]).find_model("mine")
    assert result.id == "mine" and found.prompt_template == "stained {class_name}"
    assert found.class_prompts == {"dark": "dense tissue", "pale_pink": "stroma"}
    generator = build_generator(GeneratorSettings(model="mine", batch_size=2), found, Path())
    assert generator.generate(make_jobs(class_name="dark"))[0].prompt == "stained dense tissue"


def test_a_folder_without_an_entry_is_adapted_into_a_whole_entry(catalog, data, tmp_path):
    base = shutil.copytree(catalog / "models" / "flow", tmp_path / "base")
    out = tmp_path / "adapters" / "out"
    result = adapt(settle(data, base=str(base), steps=2), catalog, out)
    assert result.id == "base-patches-2shot"
    entry = load_catalogs([out]).find_model(result.id)
    assert (entry.source, entry.family, entry.width) == (str(base), "flow", SIZE)
    assert entry.licence.id == "other" and "not recorded" in entry.licence.note
    assert str(tmp_path) not in (out / "models" / f"{result.id}.yaml").read_text()
    generator = build_generator(GeneratorSettings(model=result.id, batch_size=2), entry, Path())
    assert len(generator.generate(make_jobs(class_name="dark"))) == 2
