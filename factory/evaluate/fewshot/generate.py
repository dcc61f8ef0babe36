"""Synthetic images that a recipe makes anew from the shots of each draw, and of nothing else."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

from factory.core.errors import EvaluationError, InputError
from factory.core.files.paths import resolve_path
from factory.core.files.store import FileStore
from factory.core.hashing import compute_digest
from factory.data.shots import LabelledSet
from factory.evaluate.base import Context
from factory.evaluate.fewshot.leaks import (
    Leak,
    find_adapter_leaks,
    find_filter_leaks,
    find_model_leaks,
    find_unlabelled,
)
from factory.evaluate.fewshot.making import RunRecipe
from factory.evaluate.fewshot.providers import Draw, Provided
from factory.evaluate.fewshot.settings import Making, StudySettings
from factory.evaluate.fewshot.stopped import find_stop_images
from factory.evaluate.fewshot.synthetic import read_first_attempts, read_synthetic
from factory.filters import FILTERS
from factory.models.classifiers.model import INFO_NAME, read_classifier_info
from factory.recipe.file import load_recipe
from factory.recipe.judge_overlap import GUIDE
from factory.recipe.recipe import select_content

if TYPE_CHECKING:
    from factory.train.classifier.settings import HeadKind

AT_SHOTS = "@shots"
"""In a recipe: the classifier fitted on the shots, or the folder of the shots."""

DIGITS = 8
"""Of a digest in a folder's name."""


@dataclass(frozen=True)
class Prepared:
    """What a recipe takes of a draw.

    Attributes:
        folder: where all that is made of the draw lies.
        overrides: with which the recipe is run: shots, seed, what was fitted and adapted.
        made: folders of classifiers and adapters.
        doubts: what speaks against them, in words.
    """

    folder: Path
    overrides: tuple[str, ...]
    made: tuple[Path, ...]
    doubts: tuple[str, ...]


class RecipeProvider:
    """Runs the recipe once for each draw, below `folder`; what is there already is kept.

    What is made bears a digest of all that shapes it, so that studies may share the folder: shots
    are fitted and adapted to once, and images made once, for all that ask for the same.

    Raises:
        InputError: a recipe that cannot be made from shots.
    """

    def __init__(
        self,
        making: Making,
        settings: StudySettings,
        folder: Path,
        run: RunRecipe,
        context: Context,
    ) -> None:
        self.making, self.settings, self.run, self.say = making, settings, run, context.say
        self.folder = folder.absolute()
        self.loaded = load_recipe(making.recipe, making.overrides)
        recipe = self.loaded.recipe
        if not all(block.is_per_class for block in recipe.blocks):
            raise InputError(
                f"{making.recipe}: conditions with per_class are needed, of kind reference, class, "
                "translate, between or neighbours, as a classifier learns from classes: got "
                f"{', '.join(block.kind for block in recipe.blocks)}"
            )
        fields = ((each, FILTERS.get(each.kind).fitted) for each in recipe.filters)
        self.fitted = {each.name: field for each, field in fields if field is not None}
        given = [getattr(each, self.fitted.get(each.name, ""), None) for each in recipe.filters]
        self.fits = making.fit_filter or AT_SHOTS in given
        guidance = recipe.generator.classifier_guidance
        self.fits_guide = guidance is not None and (making.fit_filter or guidance.model == AT_SHOTS)
        if self.fits and not (self.fitted or self.fits_guide):
            raise InputError(
                f"{making.recipe}: --fit-filter: it has no classifier filter: add to filters "
                f'{{kind: classifier, model: "{AT_SHOTS}", min_probability: 0, min_margin: 0}}'
            )
        folders = (resolve_path(self.loaded.base, each) for each in recipe.catalogs)
        self.folders = [folder.absolute() for folder in (*making.catalogs, *folders)]
        self.catalogs = context.open_catalogs(self.folders)

    def describe(self) -> dict[str, Any]:
        """Returns the recipe's content, and how it is made from shots."""
        return {
            "recipe": select_content(self.loaded.recipe),
            "counts": [block.settings.per_class for block in self.loaded.recipe.blocks],
            "fit_filter": self.fits,
            "filter_encoder": self.making.filter_encoder if self.fits else None,
            **({"guide_encoder": self.making.guide_encoder} if self.fits_guide else {}),
            "adapt": self.making.adapt,
            "adapt_set": list(self.making.adapt_set),
        }

    def check(
        self, draws: Sequence[Draw], test: LabelledSet | None = None
    ) -> tuple[list[Leak], list[str]]:
        """Finds models and filters that saw labels, and test images that would be read."""
        recipe, set_name = self.loaded.recipe, self.settings.set_name
        model = self.making.adapt or recipe.generator.model
        leaks, notes = find_model_leaks(model, self.catalogs, set_name)
        if recipe.generator.adapters:
            leaks += find_adapter_leaks(model, self.catalogs)
        guidance = recipe.generator.classifier_guidance
        if guidance is not None and not self.fits_guide:
            described = {"kind": GUIDE, "model": self._find_folder(guidance.model)}
            leaks += find_filter_leaks(described, draws[0].images, self.catalogs)
        for each in recipe.filters:
            described = each.model_dump(mode="json")
            own = each.name in self.fitted and self.fits
            if own or str(described.get("images")) == AT_SHOTS:
                continue
            if "model" in described:
                described["model"] = self._find_folder(described["model"])
            leaks += find_filter_leaks(described, draws[0].images, self.catalogs)
        if test is not None:
            for block in recipe.blocks:
                leaks += find_unlabelled(block, self.loaded.session, test)
            leaks += find_stop_images(recipe.budget.stop, self.loaded.session, test)
        return leaks, notes

    def prepare(self, draw: Draw) -> Prepared:
        """Fits and adapts what the recipe takes of a draw's shots, or finds it there.

        Raises:
            EvaluationError: the adaptation copied the shots from the start.
        """
        groups = [image.group for image in draw.images.images]
        named = f"{draw.shots}-shots-seed-{draw.seed}"
        folder = self.folder / _name_made(named, [draw.images.digest, groups])
        shots = folder / "shots"
        write_shots(draw.images, shots)
        overrides = [*self.making.overrides, *self._point_to(draw, shots)]
        catalogs, made = [str(each) for each in self.folders], []
        doubts = []
        if self.fits and self.fitted:
            made.append(self._fit(folder, draw, "filter", self.making.filter_encoder))
            doubts.append(self._doubt(made[-1], draw, "filter"))
            place = json.dumps(str(made[-1]))
            overrides += [f"filters.{name}.{field}={place}" for name, field in self.fitted.items()]
        if self.fits_guide:
            made.append(self._fit(folder, draw, "guide", self.making.guide_encoder))
            doubts.append(self._doubt(made[-1], draw, "guide"))
            overrides.append(f"generator.classifier_guidance.model={json.dumps(str(made[-1]))}")
        if self.making.adapt is not None:
            made.append(self._adapt(folder, draw, shots))
            overrides.append(f"generator.model={json.dumps(_name_adapted(draw))}")
            catalogs.append(str(made[-1]))
        overrides.append(f"catalogs={json.dumps(catalogs)}")
        return Prepared(folder, tuple(overrides), tuple(made), tuple(filter(None, doubts)))

    def provide(self, draw: Draw) -> Provided:
        """Makes the images of a draw, or finds them made.

        Raises:
            EvaluationError: the adaptation copied the shots from the start.
            RunBrokenError: the run stopped and can be resumed.
        """
        ready = self.prepare(draw)
        shaped = [*map(str, self.folders), *(each.name for each in ready.made)]
        run = ready.folder / _name_made("run", [self.describe(), self._most(), shaped])
        self.say(f"making synthetic images of {draw.name}")
        short = self.run(self.making.recipe, ready.overrides, run)
        synthetic, unfiltered = read_synthetic(run), read_first_attempts(run)
        leaks = [
            leak
            for origin in synthetic.origins
            for described in origin.filters
            for leak in find_filter_leaks(described, draw.images, self.catalogs)
        ]
        missing = unfiltered if isinstance(unfiltered, str) else ""
        return Provided(
            synthetic,
            None if isinstance(unfiltered, str) else unfiltered,
            missing_unfiltered=missing,
            leaks=tuple(leaks),
            notes=tuple(filter(None, [*ready.doubts, f"{draw.name}: {short}" if short else ""])),
            roots=(run,),
        )

    def _most(self) -> int | None:
        """Returns the most synthetic images of each class that an arm takes; None: all."""
        asked = [self.settings.per_class or 0, *self.settings.counts]
        return max(asked) or None

    def _point_to(self, draw: Draw, shots: Path) -> list[str]:
        """Returns overrides that give a recipe the seed and the shots of a draw."""
        recipe, most = self.loaded.recipe, self._most()
        overrides = [f"seed={draw.seed}"]
        grouped = all(image.group is not None for image in draw.images.images)
        for number, block in enumerate(recipe.blocks):
            at = f"conditions[{number}]"
            if block.varied is not None:
                overrides += [
                    f"{at}.images={json.dumps(str(shots))}",
                    f"{at}.shots={draw.shots if draw.is_even else 'null'}",
                    f"{at}.group_pattern=null",
                    f"{at}.group_column={'group' if grouped else 'null'}",
                ]
            if most is not None and len(recipe.conditions) == 1:
                counts = dict.fromkeys(draw.images.class_names, most)
                overrides.append(f"{at}.per_class={json.dumps(counts)}")
        for each in recipe.filters:
            if str(getattr(each, "images", None)) == AT_SHOTS:
                overrides.append(f"filters.{each.name}.images={json.dumps(str(shots))}")
        return overrides

    def _find_size(self) -> tuple[int | None, str]:
        """Returns the px that the model makes, where that is known, and how shots are fitted."""
        settings = self.loaded.recipe.generator
        entry = self.catalogs.get_model(self.making.adapt or settings.model)
        size = settings.width or (entry.width if entry is not None else None)
        fits = [block.varied.fit for block in self.loaded.recipe.blocks if block.varied is not None]
        return size, fits[0] if fits else self.settings.fit

    def _find_folder(self, model: str) -> str:
        """Returns a classifier's folder where the recipe names one, else its id."""
        folder = resolve_path(self.loaded.base, model)
        return str(folder) if folder.is_dir() else model

    def _fit(self, folder: Path, draw: Draw, role: str, encoder: str) -> Path:
        """Fits a classifier on the shots; a guide's head must have a gradient, so no k-NN."""
        from factory.train.classifier.heads import FEW_SHOTS
        from factory.train.classifier.settings import ClassifierSettings
        from factory.train.classifier.train import train_classifier

        size, fit = self._find_size()
        linear: HeadKind = "prototype" if draw.shots < FEW_SHOTS else "logistic"
        head: HeadKind = linear if role == "guide" else "auto"
        out = folder / _name_made(role, [encoder, head, size, fit])
        if (out / INFO_NAME).is_file():
            return out
        self.say(f"fitting the {role} of {draw.name}")
        report = train_classifier(
            folder / "shots",
            out,
            ClassifierSettings(
                encoder=encoder,
                head=head,
                image_size=size,
                fit="resize" if fit == "resize" else "crop",
                seed=draw.seed,
                force=True,
            ),
        )
        reached = report["held_out"]["balanced_accuracy"]
        self.say(f"  held-out balanced accuracy {reached:.2f} on the shots alone")
        return out

    def _doubt(self, classifier: Path, draw: Draw, role: str) -> str:
        """Says that a classifier of the shots cannot be shown to beat guessing; "" where it can."""
        report = read_classifier_info(classifier).report
        if report["refused"] is None:
            return ""
        reached, chance = report["held_out"]["balanced_accuracy"], report["chance"]
        how = "does no better" if reached <= chance else "cannot be shown to do better"
        chosen = "what it keeps is chosen by chance" if role == "filter" else "it leads by chance"
        text = (
            f"{draw.name}: its {role} {how} than guessing (held-out balanced accuracy "
            f"{reached:.2f} on the shots, guessing gives {chance:.2f}): "
            f"{chosen if reached <= chance else 'too few shots to tell, or ' + chosen}"
        )
        self.say(text)
        return text

    def _adapt(self, folder: Path, draw: Draw, shots: Path) -> Path:
        """Adapts the base to the shots; returns the adapter's folder, which is a catalog."""
        from factory.train.adapter.settings import AdapterSettings
        from factory.train.adapter.train import train_adapter

        name = _name_adapted(draw)
        values: dict[str, Any] = {"fit": self._find_size()[1], "seed": draw.seed}
        for text in self.making.adapt_set:
            key, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"--adapt-set: want name=value, got {text!r}")
            values[key.strip().replace("-", "_")] = yaml.safe_load(value)
        fixed = {"base": self.making.adapt, "shots": draw.shots, "id": name}
        out = folder / _name_made("adapter", {**values, **fixed})
        if (out / "models" / f"{name}.yaml").is_file():
            return out
        self.say(f"adapting {self.making.adapt} to {draw.name}")
        settings = AdapterSettings(**{**values, **fixed, "data": shots})
        if train_adapter(settings, self.catalogs, out, lambda line: None).sha256 is None:
            raise EvaluationError(
                f"{draw.name}: the adaptation copied its shots from the first check on: raise "
                "max_copies or lower learning_rate by --adapt-set"
            )
        return out


def _name_adapted(draw: Draw) -> str:
    """Returns the catalog id of what is adapted to a draw."""
    return f"adapted-{draw.shots}shots-seed{draw.seed}"


def _name_made(kind: str, shaped_by: Any) -> str:
    """Returns a folder's name that tells what shaped what is in it."""
    return f"{kind}-{compute_digest('fewshot draw', shaped_by)[:DIGITS]}"


def write_shots(shots: LabelledSet, folder: Path) -> None:
    """Writes shots as an ImageFolder with their bytes as they are, and groups where known.

    Raises:
        SourceError: an image that cannot be read any more.
    """
    files = FileStore(str(folder))
    if files.exists("metadata.csv"):
        return
    rows = ["file_name,group"]
    for image, sha in zip(shots.images, shots.sha256s, strict=True):
        data = image.read_bytes()
        name = f"{image.class_name}/{sha[:24]}{_find_suffix(data)}"
        files.write(name, data)
        group = "" if image.group is None else image.group.replace('"', '""')
        rows.append(f'{name},"{group}"')
    files.write("metadata.csv", ("\n".join(rows) + "\n").encode())


def _find_suffix(data: bytes) -> str:
    """Returns the suffix of encoded bytes, by the format that Pillow finds."""
    with Image.open(io.BytesIO(data)) as image:
        found = str(image.format).lower()
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(found, f".{found}")
