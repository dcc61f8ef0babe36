"""What a text encoder gave is remembered by its exact input: a prompt of every batch is read once.

The same ids and mask of a whole batch give the same tensors, bit for bit: nothing is put together
from rows of other batches, whose last bits depend on their company.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

MOST_INPUTS = 64
"""Inputs that are remembered of an encoder at most, those used last,"""
MOST_BYTES = 128 << 20
"""and bytes of what it gave for them."""


class Remembered:
    """A method of a text encoder that answers again what it was asked before.

    Passed on each time: calls with gradients, with anything but tensors of whole numbers and plain
    values, and those whose answer holds anything but tensors. Weights that changed are new inputs.

    Args:
        module: the encoder.
        call: its method.
    """

    def __init__(self, module: torch.nn.Module, call: Callable[..., Any]) -> None:
        self._module, self._call = module, call
        self._known: OrderedDict[Any, Any] = OrderedDict()
        self._bytes = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Returns what the method returns, in tensors of the caller's own."""
        if torch.is_grad_enabled():
            return self._call(*arguments, **options)
        try:
            key = _name(arguments), _name(options), self._name_weights()
        except TypeError:
            return self._call(*arguments, **options)
        if key in self._known:
            self._known.move_to_end(key)
            return _copy(self._known[key])
        found = self._call(*arguments, **options)
        self._keep(key, found)
        return found

    def _keep(self, key: Any, found: Any) -> None:
        try:
            size = _count_bytes(found)
        except TypeError:
            return
        if size > MOST_BYTES:
            return
        self._known[key] = _copy(found)
        self._bytes += size
        while len(self._known) > MOST_INPUTS or self._bytes > MOST_BYTES:
            self._bytes -= _count_bytes(self._known.popitem(last=False)[1])

    def _name_weights(self) -> tuple[tuple[int, int], ...]:
        """Returns which tensors the weights are, and how often each was written."""
        return tuple((id(each), each._version) for each in self._module.parameters())


def remember_texts(components: Mapping[str, Any]) -> None:
    """Lets the text encoders among the components of a pipeline remember what they gave."""
    for name, module in components.items():
        if not name.startswith("text_encoder") or not isinstance(module, torch.nn.Module):
            continue
        for method in ("forward", "encode_captions"):
            call = getattr(module, method, None)
            if call is not None and not isinstance(call, Remembered):
                remembered = Remembered(module, call)
                setattr(module, method, functools.wraps(call)(remembered))


def _name(value: Any) -> Any:
    """Returns what tells a value from all others.

    Raises:
        TypeError: it is neither plain, nor a tensor of whole numbers.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, tuple | list):
        return tuple(map(_name, value))
    if isinstance(value, Mapping):
        return tuple((key, _name(each)) for key, each in value.items())
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.dtype, value.device, value.shape, value.cpu().numpy().tobytes()
    raise TypeError(type(value))


def _copy(found: Any) -> Any:
    """Returns an answer in tensors of its own, so that none of the kept is written into."""
    if isinstance(found, torch.Tensor):
        return found.clone()
    if isinstance(found, Mapping):  # of transformers, whose outputs are made from their fields
        return type(found)(**{name: _copy(each) for name, each in found.items()})
    return type(found)(map(_copy, found)) if isinstance(found, tuple | list) else found


def _count_bytes(found: Any) -> int:
    return sum(each.numel() * each.element_size() for each in _list_tensors(found))


def _list_tensors(found: Any) -> Iterator[torch.Tensor]:
    """Yields the tensors of an answer.

    Raises:
        TypeError: it holds something else, such as a cache that is written on.
    """
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, Mapping):
        for each in found.values():
            yield from _list_tensors(each)
    elif type(found) in (tuple, list):
        for each in found:
            yield from _list_tensors(each)
    elif found is not None:
        raise TypeError(type(found))
