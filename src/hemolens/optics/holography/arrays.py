"""Arrays in, arrays out: the same function for NumPy and for tensors on any device."""

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hemolens.errors import UserError

#: A NumPy array or a tensor; a function that takes one returns the same kind.
Array = TypeVar("Array", NDArray[Any], Tensor)


def as_tensor(values: Any, name: str, *, complex_values: bool = False) -> Tensor:
    """A floating-point or complex tensor [..., H, W] that shares memory where it can.

    Integers become float32; float64 and complex128 keep their precision, all else is single precision.

    Raises:
        UserError: not an image, or complex where it must be real (and the other way round).
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(_native(values))
    if tensor.ndim < 2 or not tensor.numel():
        raise UserError(f"{name} has the shape {list(tensor.shape)}: an image [..., H, W] is needed")
    if tensor.is_complex() != complex_values:
        kinds = ("a complex field", "real numbers")
        raise UserError(f"{name} holds {tensor.dtype}: {kinds[0] if complex_values else kinds[1]} are needed")
    tensor = tensor.resolve_conj()
    if tensor.dtype in (torch.float64, torch.complex128):
        return tensor
    return tensor.to(torch.complex64 if complex_values else torch.float32)


def _native(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == np.uint16:  # torch has no arithmetic for it
        return array.astype(np.float32)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return array if array.flags.writeable else array.copy()  # torch has no read-only tensors


def like(result: Tensor, values: Array) -> Array:
    """``result`` as the kind of ``values``."""
    if isinstance(values, Tensor):
        return result
    return result.cpu().numpy()


def frequencies(size: int, reference: Tensor) -> Tensor:
    """Frequencies of ``torch.fft.fft`` in cycles a sample, float64 [size], on the device of ``reference``."""
    return torch.fft.fftfreq(size, dtype=torch.float64, device=reference.device)


def real_type(tensor: Tensor) -> torch.dtype:
    """Real dtype of the precision of a tensor."""
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


def positive_number(name: str, value: float | None, meaning: str) -> float:
    """``value``, checked.

    Raises:
        UserError: it is missing or not positive.
    """
    if value is None or not value > 0:
        state = "is not known" if value is None else f"is {value}"
        raise UserError(f"{name} {state}: give {name}=, {meaning}")
    return float(value)
