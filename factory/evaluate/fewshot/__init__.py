"""`fewshot`: what synthetic images add to a few real ones, against arms of control.

Protocol after the augmentation study of MUPAD (k real images of each class, a small classifier
trained on them with and without synthetic ones, several draws), with all that it leaves open stated
in the settings. Differences: every arm gets the same number of optimisation steps, patients or
slides of the test never give a shot, and every figure carries an interval.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factory.core import fields
from factory.core.duration import format_duration
from factory.core.errors import InputError
from factory.evaluate import DEFAULT_ENCODER, base
from factory.evaluate.fewshot.settings import MIN_STEPS, MakingOptions, SourceOptions, StudySettings
from factory.evaluate.fewshot.tables import list_studies, write_study

RESNET_SECONDS = 100.0
"""Of one CPU core for 400 steps of 32 images of 64 px, as README says."""
TEST, SHOTS = "real test images", "real shots"
"""Kinds that synthetic images are held against: what a judge of the training set makes of test
images, and of images of that set which it was not shown, as variations of them look like these."""


class Fewshot(base.Evaluation):
    """Says whether synthetic images help a classifier of a few real ones, against control arms.

    Every arm has the same steps, batch size, initialisation and shots. Intervals are over draws and
    test images. The same command with --out resumes.
    """

    study = "factory.evaluate.fewshot.run:measure"
    names: ClassVar[Mapping[str, str]] = {
        "all_real": "all real images (the ceiling)",
        "label_fidelity": "label fidelity: taken for its class by a classifier of real images",
        "relative_gain": "relative gain over real",
    }
    hidden = frozenset({"paired_metrics", "curve", "seconds", "classifiers", "chosen", "making"})
    sources: ClassVar[Mapping[str, str]] = {"real": "settings.real", "test": "settings.test"}
    drawings = (
        base.Drawing(
            "fewshot/arms.svg",
            "Balanced accuracy of the arms of the few-shot study, 95 % intervals",
        ),
        base.Drawing(
            "fewshot/curve.svg", "Balanced accuracy against the number of synthetic images"
        ),
    )

    class Settings(MakingOptions, SourceOptions, StudySettings, base.EvaluationSettings):
        """The images, what makes them of shots, and how every arm is trained."""

        kind: Literal["fewshot"] = "fewshot"
        recipe: Annotated[Path | None, fields.Option("--generator", takes="recipe")] = Field(
            None, description="Recipe that is run anew for every draw."
        )
        out: fields.StudyFolder = None

    class Result(base.EvaluationResult):
        """Arms, differences and label fidelity; with several counts of shots, those of each."""

        arms: base.Parts
        paired: base.Parts
        relative_gain: base.Parts
        label_fidelity: base.Parts
        marks: base.Parts
        tuned: base.Parts
        making: base.Items

    settings: Settings

    @classmethod
    def adapt(cls, given: Any, **others: Any) -> base.EvaluationSettings:
        """Marks what leaks, but for test images."""
        others = {"encoder": given.fewshot_encoder, "out": given.folder / "fewshot"}
        return super().adapt(given, **others, mark_leaks=True)

    def describe_work(self) -> str:
        """Says how many trainings there are, and roughly how long they take."""
        settings = self.settings
        seeds, steps, size = settings.seeds, settings.steps, settings.size
        trainings = len(settings.arms) * seeds * len(settings.shots)
        often = f"{len(settings.arms)} arms x {seeds} draws = {trainings} trainings"
        if settings.tune:
            often += f" beside {', '.join(settings.tune)} tuned inside the shots,"
        if settings.encoder is not None:
            return f"{often} of a linear head on {settings.encoder}, a matter of seconds each"
        if settings.epochs is not None:
            steps = settings.count_arm_steps(max(settings.shots), 1, 2 * max(settings.shots))
        seconds = RESNET_SECONDS * (steps or MIN_STEPS) / MIN_STEPS * (size / 64) ** 2
        least = f"{steps:,}" if steps else f"{MIN_STEPS} or more"
        if settings.epochs is not None:
            least = f"for two classes without synthetic images {least}"
        return (
            f"{often} of ResNet-18 at {size} px, {least} steps each: roughly "
            f"{format_duration(trainings * seconds)} of one CPU core (--fewshot-encoder "
            f"{DEFAULT_ENCODER} trains linear heads in seconds; the same command goes on where it "
            "was stopped)"
        )

    def mend(self, error: InputError) -> Mapping[str, Any] | None:
        """Returns what makes the images anew of each draw's shots, where labels leaked."""
        from factory.evaluate.fewshot.leaks import LeakError
        from factory.evaluate.fewshot.remedy import find_remedy

        if not isinstance(error, LeakError):
            return None
        return find_remedy(dict(self.settings), error.leaks)

    def tell_written(self) -> str:
        """Says where numbers and plot are."""
        out = self.settings.out
        if out is None:
            return ""
        return f"\nall numbers: {out / 'results.json'}; plot: {out / 'arms.svg'}"

    @classmethod
    def list_rows(cls, result: Mapping[str, Any]) -> Iterator[base.Row]:
        """Yields label fidelity, and what synthetic images add to each baseline."""
        settings, paired = result["settings"], result["paired"]
        real = {name: result["label_fidelity"].get(name) for name in (SHOTS, TEST)}
        beside = ", ".join(
            f"{name}: {each['balanced_accuracy']['mean']:.3g}"
            for name, each in real.items()
            if each
        )
        for kind, found in result["label_fidelity"].items():
            if kind not in real:
                measure = f"{kind}: share that a classifier of real images takes for its class"
                marks = tuple(result["marks"].get(kind, ()))
                yield base.Row.of(base.TIERS[1], measure, found["balanced_accuracy"], beside, marks)
        marks = tuple(result["marks"].get("real+synthetic", ()))
        for other in ("real", "real+classical"):
            name = f"real+synthetic - {other}"
            if name in paired:
                measure = (
                    f"balanced accuracy, {name} ({settings['shots']} shots, "
                    f"{len(settings['seeds'])} draws, {settings['steps']} steps)"
                )
                accuracy = result["arms"][other]["balanced_accuracy"]["mean"]
                yield base.Row.of(
                    base.TIERS[2], measure, paired[name], f"{other}: {accuracy:.3g}", marks
                )

    @classmethod
    def write_lines(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the tables of every count of shots."""
        return [line for study in list_studies(result) for line in write_study(study)]

    @classmethod
    def list_warnings(cls, result: Mapping[str, Any]) -> list[str]:
        """Returns the arms that are not measured, and what a reader must know."""
        found = []
        for study in list_studies(result):
            found += [f"LEFT OUT {arm}: {why}" for arm, why in study["left_out"].items()]
            found += [f"NOTE {note}" for note in study["notes"]]
        return list(dict.fromkeys(found))

    @classmethod
    def list_marks(cls, result: Mapping[str, Any]) -> Iterator[str]:
        """Yields the marks of all counts of shots."""
        for study in (result, *list_studies(result)):
            yield from super().list_marks(study)

    @classmethod
    def show(cls, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the studies of several counts of shots: the top repeats the largest."""
        shots = result.get("shots")
        return {"shots": shots} if isinstance(shots, dict) else result
