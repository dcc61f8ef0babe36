"""`make_fast`: a loaded pipeline's network runs as `generator.speed` of its recipe says."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from factory.core.errors import InputError
from factory.models.generators.settings import Speed

BACKEND = "inductor"
SHAPES = 64
"""Different calls that are compiled of one network: batch sizes, lengths of text, streams."""
KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ON_DEVICE = {"cuda": tuple(KERNELS), "cpu": ("math", "flash")}
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def make_fast(pipeline: Any, speed: Speed, device: str) -> None:
    """Changes the network of a pipeline in place, once, and the decoder's layout with it.

    Every shape of a call is compiled by itself, whole, and without trials on the device, so that
    neither the order of calls nor what else the device does changes pixels.

    Args:
        pipeline: on its device.
        speed: what is asked for.
        device: torch device, e.g. `cuda:0`.

    Raises:
        InputError: what the device or the network has not.
    """
    if speed.attention not in (None, *list_kernels(device)):
        known = ", ".join(list_kernels(device)) or "none"
        message = f"torch has no {speed.attention!r} for {device}: {known}"
        raise InputError(f"generator.speed.attention: {message}: take one, or remove it")
    lacking = explain_no_compiler(device) if speed.compile else None
    if lacking is not None:
        raise _refuse("compile", lacking)
    network = find_network(pipeline, "speed")
    if speed.channels_last:
        for part in (network, getattr(pipeline, "vae", None)):
            if isinstance(part, torch.nn.Module):
                _lay_channels_last(part)
        if not any(each.ndim == 4 for each in network.parameters()):
            message = f"{type(network).__name__} has no convolution that it would change"
            raise _refuse("channels_last", message)
    if speed.compile:
        for part in getattr(network, "compiled_parts", None) or (network,):
            part.forward = _compile(part.forward, type(network).__name__)
    if speed.attention is not None:
        network.forward = _attend(network.forward, KERNELS[speed.attention])


def list_kernels(device: str) -> tuple[str, ...]:
    """Returns the kernels of attention that torch has for a device."""
    return ON_DEVICE.get(device.partition(":")[0], ())


def explain_slow_bfloat16(device: str) -> str | None:
    """Says that a device has no instructions for bfloat16, or None."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        is_made_for = torch.cuda.get_device_properties(device).major >= 8
        is_made_for = is_made_for or torch.version.hip is not None
    elif kind == "cpu":
        known: Mapping[str, Any] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # of torch 2.10 and newer
        is_made_for = any(known.get(each, False) for each in _BFLOAT16)
    else:
        return f"whether {kind} has instructions for it is not known"
    return None if is_made_for else f"this {kind} has no instructions for it"


def explain_no_compiler(device: str) -> str | None:
    """Says why nothing can be compiled for a device, so that pixels come out again; or None."""
    from torch._inductor import config

    kind = device.partition(":")[0]
    if not hasattr(config, "deterministic"):
        return f"torch {torch.__version__} compiles by trials on the device: update torch"
    if kind == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton does not run here, which compiles for CUDA"
    if kind != "cpu":
        return f"is not known to give the same pixels again on {kind}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:
        return f"no C++ compiler here: install g++ or clang ({str(error).splitlines()[0]})"
    return None


def find_network(pipeline: Any, field: str) -> Any:
    """Returns what predicts at every step.

    Args:
        pipeline: whose.
        field: of `generator`, which needs it.

    Raises:
        InputError: no component is called as such.
    """
    for name in ("transformer", "unet"):
        found = getattr(pipeline, name, None)
        if isinstance(found, torch.nn.Module):
            return found
    message = f"{type(pipeline).__name__} has no component `transformer` or `unet`"
    raise InputError(f"generator.{field}: {message}: remove it")


def _lay_channels_last(module: Any) -> None:
    try:
        module.to(memory_format=torch.channels_last)
    except RuntimeError as error:
        message = f"{type(module).__name__} cannot be laid so ({error})"
        raise _refuse("channels_last", message) from error


def _compile(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    options: Any = {"deterministic": True} if BACKEND == "inductor" else None
    compiled = torch.compile(
        forward, fullgraph=True, dynamic=False, backend=BACKEND, options=options
    )

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with torch._dynamo.config.patch(recompile_limit=SHAPES):
                return compiled(*args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            said = " ".join(str(error).split())[:300]
            message = f"{name} cannot be compiled ({type(error).__name__}: {said})"
            raise _refuse("compile", message) from error

    return run


def _attend(forward: Callable[..., Any], kernel: SDPBackend) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return forward(*args, **kwargs)

    return run


def _refuse(field: str, message: str) -> InputError:
    return InputError(f"generator.speed.{field}: {message}: remove it")
