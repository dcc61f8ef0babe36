"""What the licences that models, images and data sets commonly carry demand, with the clauses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from factory.catalog.vocabulary import LICENCES


@dataclass(frozen=True, slots=True)
class KnownLicence:
    """Demands of a licence; None where its text does not speak of the matter.

    Attributes:
        id: as the Hub writes it.
        url: the legal text.
        basis: the clauses that the fields rest on.
        commercial_use: of what is under it.
        outputs: whether what a model under it makes may be passed on.
        adaptations: whether changed copies of what is under it may be shared.
        share_alike: adaptations must carry the same licence.
        attribution: whoever made it must be named.
        public_domain: it waives all rights, naming included.
        use_restrictions: forbids uses that it lists, and passes the list on.
    """

    id: str
    url: str
    basis: str
    commercial_use: bool | None = None
    outputs: bool | None = None
    adaptations: bool | None = None
    share_alike: bool = False
    attribution: bool = False
    public_domain: bool = False
    use_restrictions: bool = False


UNANSWERED = "unanswered"
"""Licence id of an entry whose terms nobody has read yet: nothing of it is published."""
_CC = re.compile(r"cc-by(?P<nc>-nc)?(?P<last>-sa|-nd)?-(?P<version>\d\.\d)")


def _describe_creative_commons(name: str) -> KnownLicence | None:
    found = _CC.fullmatch(name)
    if found is None:
        return None
    clauses = ["attribution: section 3(a)"]
    clauses += ["no commercial use: 2(a)(1)"] if found["nc"] else []
    clauses += ["adaptations are not shared: 2(a)(1)(B)"] if found["last"] == "-nd" else []
    clauses += ["adaptations under the same licence: 3(b)"] if found["last"] == "-sa" else []
    kind = name.removeprefix("cc-").rpartition("-")[0]
    return KnownLicence(
        name,
        f"https://creativecommons.org/licenses/{kind}/{found['version']}/legalcode",
        "; ".join(clauses) + " (numbers of version 4.0); says nothing of what a model makes",
        commercial_use=not found["nc"],
        adaptations=found["last"] != "-nd",
        share_alike=found["last"] == "-sa",
        attribution=True,
    )


_RAIL = (
    "section III: 5 (use-based restrictions of Attachment A), 6 (the licensor claims no rights in "
    "the output; no use of it may contravene the licence)"
)
_OTHERS = (
    KnownLicence(
        "cc0-1.0",
        "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
        "section 2: all rights are waived",
        commercial_use=True,
        outputs=True,
        adaptations=True,
        public_domain=True,
    ),
    KnownLicence(
        "apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "sections 2 and 4: use, derivative works and distribution with notices; says nothing of "
        "what a model makes",
        commercial_use=True,
        adaptations=True,
        attribution=True,
    ),
    KnownLicence(
        "mit",
        "https://opensource.org/license/mit",
        "use, change and sale with the copyright notice; says nothing of what a model makes",
        commercial_use=True,
        adaptations=True,
        attribution=True,
    ),
    KnownLicence(
        "creativeml-openrail-m",
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
        _RAIL,
        outputs=True,
        adaptations=True,
        use_restrictions=True,
    ),
    KnownLicence(
        "openrail++",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
        _RAIL,
        outputs=True,
        adaptations=True,
        use_restrictions=True,
    ),
    KnownLicence(
        "pddl",
        "https://opendatacommons.org/licenses/pddl/1-0/",
        "section 3: all rights in the database are waived",
        commercial_use=True,
        adaptations=True,
        public_domain=True,
    ),
    KnownLicence("other", "", "the text is elsewhere: nothing is known of it"),
    KnownLicence("unknown", "", "the licence was not established"),
)


def _list_known() -> dict[str, KnownLicence]:
    found = {each.id: each for each in _OTHERS}
    commons = filter(None, map(_describe_creative_commons, LICENCES))
    return found | {each.id: each for each in commons}


KNOWN: Mapping[str, KnownLicence] = MappingProxyType(_list_known())
"""Licence id -> what it demands; ids that are not here demand nothing that factory knows of."""


def find_known(name: str) -> KnownLicence:
    """Returns what a licence id demands; nothing is known of an id outside the table."""
    return KNOWN.get(name, KnownLicence(name, "", "not in factory's table: nothing is known of it"))
