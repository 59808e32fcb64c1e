"""What this machine is, and what `trainer.precision=auto` means on it."""

import os
import platform
from pathlib import Path

import torch


def cpu_has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulated bf16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: no portable way to ask, so stay with float32
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def auto_precision(accelerator: str) -> str:
    """The Lightning precision for an accelerator: mixed bfloat16 where hardware has it, else mixed float16 or float32.

    Args:
        accelerator: Lightning's name, ``cpu``, ``gpu``, ``cuda``, ``mps`` or ``auto``.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if accelerator != "mps" and cpu_has_fast_bf16() else "32-true"


def device_name(device: torch.device) -> str:
    """What a run was computed on, e.g. ``AMD EPYC, 2 cores`` or the name of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
