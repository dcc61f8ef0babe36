"""`accept`: which filters must agree, as a boolean expression of their kinds."""

import ast
import itertools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A parsed expression such as `tissue and (classifier or realism)`.

    Attributes:
        text: as written.
        kinds: the filters that it names, in order of appearance.
    """

    text: str
    kinds: tuple[str, ...]

    def holds(self, accepts: Callable[[str], bool]) -> bool:
        """Returns its value, where `accepts` says whether a filter accepts."""
        return _evaluate(_parse(self.text), accepts)

    def needs(self, kind: str) -> bool:
        """Whether it takes nothing that this filter rejects, whatever the others say."""
        others = [each for each in self.kinds if each != kind]
        for verdicts in itertools.product((False, True), repeat=len(others)):
            if self.holds({kind: False, **dict(zip(others, verdicts, strict=True))}.__getitem__):
                return False
        return True


def parse_rule(text: str) -> Rule:
    """Parses kinds of filters joined by `and`, `or`, `not` and parentheses, as in Python.

    Raises:
        ValueError: anything else; says what.
    """
    kinds: dict[str, None] = {}
    _evaluate(_parse(text), lambda kind: kinds.setdefault(kind) is None, whole=True)
    return Rule(text, tuple(kinds))


def _parse(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"{text!r} is no expression of filter kinds with and, or, not ({error.msg})"
        ) from None


def _evaluate(node: ast.expr, accepts: Callable[[str], bool], whole: bool = False) -> bool:
    """Evaluates; `whole` visits every name, even where the value is known already."""
    if isinstance(node, ast.Name):
        return accepts(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _evaluate(node.operand, accepts, whole)
    if isinstance(node, ast.BoolOp):
        parts = (_evaluate(each, accepts, whole) for each in node.values)
        values = list(parts) if whole else parts
        return all(values) if isinstance(node.op, ast.And) else any(values)
    raise ValueError(
        f"{ast.unparse(node)!r} is neither a filter kind nor and, or, not: write e.g. "
        "tissue and (classifier or realism)"
    )
