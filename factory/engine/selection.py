"""Selection: which candidate of each request counts, decided from stored scores alone."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory.data.provenance import read_origin, read_provenance
from factory.data.records import Verdict
from factory.engine.diversity import Pick, count_kept, pick_best, pick_diverse, rank_scores
from factory.engine.repeats import WalkedSeries
from factory.filters import Decide
from factory.recipe.earlier import NEAR_DUPLICATE
from factory.recipe.recipe import DiversePick

Status = Literal["accepted", "rejected", "spare"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one candidate. `spare`: good or not, an earlier attempt was taken.

    `match` is the sample id of the image that it nearly repeats.
    """

    status: Status
    rejected_by: str | None = None
    reason: str | None = None
    match: str | None = None


ACCEPTED = Decision("accepted")
"""One for all: jobs name it by the 10,000."""
NOT_PICKED = Decision("spare", "pick", "good, but others of its series were kept")


OVER_QUOTA = "shot_quota"
"""What rejects a good candidate whose shot has given its share of the series."""
OVER_GROUP_QUOTA = "group_quota"
"""Likewise one whose patient or slide has."""


class Quota:
    """How many accepted images of a series may vary one real image.

    Up to the i-th request of a series, i from 1 on, one image gives `max_share` times i at most,
    rounded up. So the share of all requests is kept, and a raised count changes nothing.
    """

    whose, field, rejects = "shot", "max_share_per_shot", OVER_QUOTA

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self._used: Counter[str] = Counter()

    def find_owner(self, candidate: Mapping[str, Any]) -> str | None:
        """Returns whose share a candidate counts to; None: nobody's."""
        found: str | None = candidate["reference_sha256"]
        return found

    def refuse(self, candidate: Mapping[str, Any]) -> str:
        """Says why a candidate must not be taken; nothing where it may."""
        owner, requests = self.find_owner(candidate), candidate["index"] + 1
        if owner is None or self._used[owner] < math.ceil(round(self.max_share * requests, 9)):
            return ""
        return (
            f"share of its {self.whose}: it gives {self._used[owner]} of {requests} requests "
            f"already, by {self.field} {self.max_share:g}"
        )

    def count(self, candidate: Mapping[str, Any]) -> None:
        """Counts an accepted candidate."""
        owner = self.find_owner(candidate)
        if owner is not None:
            self._used[owner] += 1


class GroupQuota(Quota):
    """How many accepted images of a series may vary images of one patient or slide."""

    whose, field, rejects = "patient or slide", "max_share_per_group", OVER_GROUP_QUOTA

    def find_owner(self, candidate: Mapping[str, Any]) -> str | None:
        """Returns the hash of the patient or slide, by the provenance of its row."""
        return read_origin(candidate, str(candidate["sample_id"])).reference_group_sha256


QUOTAS: tuple[type[Quota], ...] = (Quota, GroupQuota)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is counted of an accepted image: the real one that it varies, and what is said of it."""

    reference: str | None
    said: tuple[tuple[str, str], ...] = ()


NOTHING = Seen(None)
GOOD = Verdict(True)
"""One for all, likewise."""


def read_seen(candidate: Mapping[str, Any]) -> Seen:
    """Returns what a candidate's row tells; what it says only where its provenance was read."""
    reference = candidate["reference_sha256"]
    if "provenance" in candidate:
        return Seen(reference, tuple(read_provenance(candidate).attributes.items()))
    return NOTHING if reference is None else Seen(reference)


@dataclass(slots=True)
class SeriesFunnel:
    """Counts of one series."""

    asked: int = 0
    accepted: int = 0
    generated: int = 0
    spare: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    references: Counter[str] = field(default_factory=Counter)
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Attribute -> value -> share asked for; empty where none is stated."""
    said: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(attribute, value) -> accepted images whose caption says it."""
    bags: Mapping[str, Any] | None = None
    """Slides of a cohort: patches of one, how many there are, and which are short."""
    early: Counter[str] | None = None
    """Of a recipe with `early`: looked, stopped, checked, passed (`EarlyPart`)."""

    def note(self, seen: Seen) -> None:
        """Counts what an accepted image varies and says."""
        if seen.reference is not None:
            self.references[seen.reference] += 1
        if seen.said:  # to count nothing takes as long as all else
            self.said.update(seen.said)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data; `references` says how many of them the accepted images vary."""
        most = self.references.most_common(1)
        references = None
        if most:
            share = round(most[0][1] / self.accepted, 4)
            references = {"used": len(self.references), "largest_share": share}
        return {
            "references": references,
            "asked": self.asked,
            "accepted": self.accepted,
            "generated": self.generated,
            "spare": self.spare,
            "rejected": dict(sorted(self.rejected.items())),
            "reasons": dict(self.reasons.most_common()),
            **({"attributes": self._compare_shares()} if self.shares else {}),
            **({"bags": dict(self.bags)} if self.bags is not None else {}),
            **({"early": dict(self.early)} if self.early is not None else {}),
        }

    def _compare_shares(self) -> dict[str, dict[str, dict[str, float]]]:
        compared: dict[str, dict[str, dict[str, float]]] = {}
        for name, row in self.shares.items():
            total = sum(self.said[name, value] for value in row) or 1
            compared[name] = {
                value: {
                    "asked": round(share, 4),
                    "accepted": round(self.said[name, value] / total, 4),
                    "images": self.said[name, value],
                }
                for value, share in row.items()
            }
        return compared


class Selector:
    """Walks one series in request order and takes the first good candidate of each request.

    Good means: the filters accept it, no other block of the recipe asked for the very same image,
    its shot and patient are within their quotas, if there are any, and it is no near-duplicate of
    what an earlier request of the series took. The outcome for a request depends on earlier
    requests only, so a raised count changes nothing that was taken before. `taken` holds the
    sample ids accepted so far in all series, `walked` the near-duplicates of this one; None:
    nothing is one.
    """

    def __init__(
        self,
        decide: Decide | None,
        max_similarity: float | None,
        taken: set[int],
        quotas: Mapping[str, float] | None = None,
        walked: WalkedSeries | None = None,
    ) -> None:
        self.decide = decide
        self.taken, self.walked = taken, walked
        given = quotas or {}
        self.quotas = [kind(given[kind.field]) for kind in QUOTAS if kind.field in given]
        self.max_similarity = max_similarity

    def select(self, candidates: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Decides all candidates of one request, in order of attempts.

        Args:
            candidates: rows of one request with `scores`, `accepted`, `rejected_by`, `reason`,
                `class_name` and `sample_id`; with a quota also `index`, `reference_sha256` and, of
                patients, `provenance`.
        """
        decisions: list[Decision] = []
        is_taken = False
        for candidate in candidates:
            if self.walked is not None:
                self.walked.go_on()
            verdict = self.judge(candidate)
            if is_taken:
                decisions.append(Decision("spare", verdict.filter, verdict.reason))
            elif not verdict.accepted:
                decisions.append(Decision("rejected", verdict.filter, verdict.reason))
            else:
                decision = self._compare(candidate)
                is_taken = decision.status == "accepted"
                decisions.append(decision)
        return decisions

    def judge(self, candidate: Mapping[str, Any]) -> Verdict:
        """Returns whether the filters accept a candidate."""
        if self.decide is not None:
            return self.decide(candidate["scores"] or {}, candidate["class_name"])
        if candidate["accepted"]:
            return GOOD
        return Verdict(False, candidate["rejected_by"], candidate["reason"])

    def _compare(self, candidate: Mapping[str, Any]) -> Decision:
        identity = int(candidate["sample_id"], 16)
        if identity in self.taken:
            reason = "the same image as another condition block asks for"
            return Decision("rejected", "repeated_request", reason)
        for quota in self.quotas:
            refused = quota.refuse(candidate)
            if refused:
                return Decision("rejected", quota.rejects, refused)
        match = self.walked.find() if self.walked is not None else None
        if match is not None:
            reason = f"similarity > {self.max_similarity} to {match}"
            return Decision("rejected", NEAR_DUPLICATE, reason, match)
        if self.walked is not None:
            self.walked.take(candidate["sample_id"])
        for quota in self.quotas:
            quota.count(candidate)
        self.taken.add(identity)
        return ACCEPTED


class PickPools:
    """Collects the accepted images of each series, and picks the ones to keep.

    A pool that is not full yields what it has: at most the number asked for.
    """

    def __init__(self, pick: Pick | None, seed: int) -> None:
        self.settings, self.seed = pick, seed
        self.columns = ("features",) if isinstance(pick, DiversePick) else ()
        self.names: dict[str, list[int]] = defaultdict(list)
        self.values: dict[str, list[Any]] = defaultdict(list)
        self.seen: dict[str, list[Seen]] = defaultdict(list)

    def add(
        self, series: str, candidates: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
    ) -> None:
        """Notes the accepted one of a request's candidates."""
        if self.settings is None:
            return
        for candidate, decision in zip(candidates, decisions, strict=True):
            if decision.status == "accepted":
                self.names[series].append(int(candidate["sample_id"], 16))
                known = candidate["features" if self.columns else "scores"]
                self.values[series].append(known)
                self.seen[series].append(read_seen(candidate))

    def pick(self, funnels: Mapping[str, SeriesFunnel]) -> frozenset[int]:
        """Picks; turns the funnels from pools into what was asked and kept.

        Returns:
            The sample ids that are not kept.
        """
        left_out: set[int] = set()
        for series, funnel in funnels.items():
            funnel.asked = count_kept(funnel.asked, self.settings)
            names = self.names[series]
            if self.settings is None or len(names) <= funnel.asked:
                continue
            kept = set(self._choose(self.values[series], funnel.asked).tolist())
            left_out.update(name for row, name in enumerate(names) if row not in kept)
            funnel.spare += funnel.accepted - len(kept)
            funnel.accepted = len(kept)
            funnel.references, funnel.said = Counter(), Counter()
            for row in kept:
                funnel.note(self.seen[series][row])
        return frozenset(left_out)

    def _choose(self, values: list[Any], count: int) -> NDArray[np.int64]:
        settings = self.settings
        if isinstance(settings, DiversePick):
            features = np.array(values, np.float32)
            return pick_diverse(features, count, settings.method, self.seed)
        assert settings is not None
        return pick_best(rank_scores(values, settings.by), count, settings.by[0] != "-")
