"""Names that recipes and catalogs use: schedulers and licence ids."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What an image scheduler of diffusers steps.

    Attributes:
        steps: `noise` (predictions of noise, v or the image), `flow` (velocities), or neither.
        made_for: the models that it is for, where no family samples these.
        package: what it needs besides factory's own dependencies.
        min_steps: fewer make it fail.
        shifts: its `set_timesteps` takes the sigmas and the shift that some pipelines give it.
    """

    steps: frozenset[str]
    made_for: str = ""
    package: str | None = None
    min_steps: int = 1
    shifts: bool = True


_NOISE, _FLOW, _NEITHER = frozenset({"noise"}), frozenset({"flow"}), frozenset[str]()
_EDM = Scheduler(_NEITHER, "models with EDM preconditioning")

SCHEDULERS: Mapping[str, Scheduler] = {
    "DDIM": Scheduler(_NOISE),
    "DDIMParallel": Scheduler(_NOISE),
    "DDPM": Scheduler(_NOISE),
    "DDPMParallel": Scheduler(_NOISE),
    "DEISMultistep": Scheduler(_NOISE | _FLOW),
    "DPMSolverMultistep": Scheduler(_NOISE | _FLOW),
    "DPMSolverSDE": Scheduler(_NOISE, package="torchsde"),
    "DPMSolverSinglestep": Scheduler(_NOISE | _FLOW),
    "EDMDPMSolverMultistep": _EDM,
    "EDMEuler": _EDM,
    "EulerAncestralDiscrete": Scheduler(_NOISE),
    "EulerDiscrete": Scheduler(_NOISE),
    "FlowMatchEulerDiscrete": Scheduler(_FLOW),
    "FlowMatchHeunDiscrete": Scheduler(_FLOW, shifts=False),
    "FlowMatchLCM": Scheduler(_FLOW),
    "HeunDiscrete": Scheduler(_NOISE),
    "IPNDM": Scheduler(_NEITHER, "models whose time runs from 0 to 1, such as Dance Diffusion"),
    "KDPM2AncestralDiscrete": Scheduler(_NOISE),
    "KDPM2Discrete": Scheduler(_NOISE),
    "LCM": Scheduler(_NOISE),
    "LMSDiscrete": Scheduler(_NOISE),
    "PNDM": Scheduler(_NOISE, min_steps=4),
    "SASolver": Scheduler(_NOISE | _FLOW, shifts=False),
    "SCM": Scheduler(_NEITHER, "continuous-time consistency models, such as SANA-Sprint"),
    "TCD": Scheduler(_NOISE),
    "UniPCMultistep": Scheduler(_NOISE | _FLOW),
}
"""Image schedulers of diffusers, without the ending `Scheduler`."""

LICENCES = (
    "apache-2.0",
    "mit",
    "openrail",
    "bigscience-openrail-m",
    "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m",
    "afl-3.0",
    "artistic-2.0",
    "bsl-1.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "c-uda",
    "cc",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "wtfpl",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "agpl-3.0",
    "gfdl",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "isc",
    "h-research",
    "intel-research",
    "lppl-1.3c",
    "ms-pl",
    "apple-ascl",
    "apple-amlr",
    "mpl-2.0",
    "odc-by",
    "odbl",
    "openmdw-1.0",
    "openrail++",
    "osl-3.0",
    "postgresql",
    "ofl-1.1",
    "ncsa",
    "unlicense",
    "zlib",
    "pddl",
    "lgpl-lr",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "gemma",
    "unknown",
    "other",
)
"""Licence ids that a dataset card's metadata may hold (Hub documentation, "Licenses")."""
