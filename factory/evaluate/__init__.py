"""Measures what a data set is worth: fidelity, copies, few-shot use, retrieval, control."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from factory.core.errors import PluginError
from factory.core.registry import Registry
from factory.evaluate.base import Evaluation, EvaluationResult

T = TypeVar("T")

DEFAULT_ENCODER = "he-ssl-eval"
"""Compares images unless `--encoder` names another: learned without labels, and no filter's own."""

EVALUATIONS: Registry[Evaluation] = Registry(
    "factory.evaluations",
    Evaluation,
    {
        "fidelity": "factory.evaluate.fidelity:Fidelity",
        "copies": "factory.evaluate.copies:Copies",
        "privacy": "factory.evaluate.privacy:Privacy",
        "fewshot": "factory.evaluate.fewshot:Fewshot",
        "retrieval": "factory.evaluate.retrieval:Retrieval",
        "control": "factory.evaluate.control:Control",
        "translation": "factory.evaluate.translation:Translation",
        "composition": "factory.evaluate.composition:Composition",
        "segmentation": "factory.evaluate.segmentation:Segmentation",
        "robustness": "factory.evaluate.robustness:Robustness",
        "readers": "factory.evaluate.readers:Readers",
    },
)
"""All kinds, in the order in which `evaluate all` runs them, those of plug-ins last."""


def view_result(
    result: Mapping[str, Any], name: str, view: Callable[[type[Evaluation]], T]
) -> tuple[T, PluginError | None]:
    """Returns what is shown of a result, and what is wrong with the plug-in that it is of.

    Args:
        result: as it was read.
        name: of its file, without `.json`.
        view: called with its kind; where that is a plug-in that fails, again with `Evaluation`,
            which shows a result of any kind.
    """
    try:
        kind = find_kind(result, name)
        with EVALUATIONS.guard(kind.kind):
            return view(kind), None
    except PluginError as error:
        return view(Evaluation), error


def find_kind(result: Mapping[str, Any], name: str = "") -> type[Evaluation]:
    """Returns the evaluation that a result is of; of a kind that is not here: `Evaluation`.

    Args:
        result: as it was read; one of an older version need not say its kind.
        name: of its file, without `.json`.

    Raises:
        PluginError: a plug-in that is broken.
    """
    from factory.evaluate.everything import Everything

    kind = str(result.get("kind") or name)
    if kind == Everything.kind:
        return Everything
    if kind in EVALUATIONS.names:
        return EVALUATIONS.get(kind)
    working, _ = EVALUATIONS.list_all()
    known = (each for each in working.values() if each.known_by and each.known_by in result)
    return Evaluation if result.get("kind") else next(known, Evaluation)


class AnyResult(EvaluationResult):
    """A result of any kind: read by the model of its own."""

    newest: ClassVar[int] = 10**9

    @classmethod
    def parse(cls, data: bytes | str) -> Any:
        """Reads a result.

        Raises:
            DamageError: it cannot be one; the message is without its place.
            MismatchError: a newer version of factory wrote it.
        """
        plain = super().parse(data).to_json()
        return view_result(plain, "", lambda kind: kind.Result.parse(data))[0]
