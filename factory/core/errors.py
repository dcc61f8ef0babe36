"""The error tree: every failure that a user can meet, and the exit code it ends with.

FactoryError                 base; exit code 3
├── InputError               something given is wrong, nothing was touched; exit code 2
│   ├── RecipeError          a recipe or catalog file: carries every Problem found
│   ├── CatalogError         a name that no catalog knows
│   ├── PluginError          a plug-in, or a Python file of one's own, that cannot be used
│   ├── SourceError          real images that cannot be read
│   ├── MismatchError        a run folder that belongs to another recipe
│   ├── HeldError            a run folder that another command writes into
│   └── LicenceError         a use that a model's terms forbid
├── GenerationError          a pipeline failed (retried, then quarantined)
│   ├── CallError            the pipeline's own call failed, not what is made of it
│   └── OutOfMemoryError     the device ran out of memory (the batch is halved)
├── FilterError              a filter failed to score (retried, then quarantined)
├── StoreError               storage failed or what is stored is damaged
│   ├── MissingError         an object that is named is not there
│   └── DamageError          an object is there and cannot be what was written
├── TrainingError            a training that learns nothing under its settings
├── EvaluationError          a measurement that cannot be taken from what is there
├── PublishError             a publication that broke off; the same command goes on with it
└── RunBrokenError           the run stopped early and can be resumed
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file: where, what, got and do."""

    field: str
    message: str
    file: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = self.file
        if self.line is not None:
            where += f":{self.line}"
            if self.column is not None:
                where += f":{self.column}"
        return ": ".join(part for part in (where, self.field, self.message) if part)


FOREIGN_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a library or a model's own code raises that fails; all else is a defect of ours."""


class FactoryError(Exception):
    """Base of all errors raised on purpose by factory."""

    exit_code = 3


class InputError(FactoryError):
    """What was given is wrong; nothing was touched."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe or catalog file with one or more problems, all listed."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class CatalogError(InputError):
    """A name that no catalog knows."""


class PluginError(InputError):
    """A plug-in, or a Python file of one's own, that cannot be used.

    Attributes:
        brief: the message without the file and line of the code that failed, for what is published.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(f"{message} ({place})" if place else message)
        self.brief = message


class SourceError(InputError):
    """Real images or captions that cannot be read."""


class MismatchError(InputError):
    """A run folder that belongs to another recipe."""


class HeldError(InputError):
    """A run folder that another command writes into."""


class LicenceError(InputError):
    """A use that a model's terms forbid."""


class GenerationError(FactoryError):
    """A pipeline failed while making images."""


class CallError(GenerationError):
    """The call of a pipeline failed by itself, or returned no images of the size asked for."""


class OutOfMemoryError(GenerationError):
    """The device ran out of memory for this batch."""


class FilterError(FactoryError):
    """A filter failed to score: an infrastructure failure, never a rejection."""


class StoreError(FactoryError):
    """Storage failed, or what is stored is damaged."""


class MissingError(StoreError):
    """An object that is named is not there."""


class DamageError(StoreError):
    """An object is there, and cannot be what was written."""


class TrainingError(FactoryError):
    """A training diverged or collapsed; other settings are needed."""


class EvaluationError(FactoryError):
    """A measurement that cannot be taken from what is there."""


class PublishError(FactoryError):
    """A publication broke off; the same command goes on with it."""


class RunBrokenError(FactoryError):
    """The run stopped early; the same command resumes it."""
