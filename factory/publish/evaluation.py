"""`Evaluation`: a result of an evaluation, which a notebook shows as the card does."""

from typing import Any

from factory.publish.card.evaluations import write_evaluation


class Evaluation(dict[str, Any]):
    """Plain data, as the JSON file of a result holds it: `kind`, `settings`, figures, notes."""

    def _repr_markdown_(self) -> str:
        """What a notebook shows: marks, tables, settings and notes, text escaped."""
        return write_evaluation(str(self.get("kind", "evaluation")), self)
