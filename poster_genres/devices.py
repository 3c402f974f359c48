"""The device that torch computes on, and torch's settings for it."""

import ctypes
import platform

import torch


def choose_device() -> torch.device:
    """CUDA if it is available, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def prepare() -> torch.device:
    """Choose the device and configure torch for a stage's long computations on it."""
    device = choose_device()
    # On the CPU the same seed gives the same bytes; on CUDA some operations have no deterministic version. Unlike
    # `torch.use_deterministic_algorithms`, this does not import torch's compiler, which takes a second.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # No code here reads memory before writing to it, so it need not be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if platform.libc_ver()[0] == "glibc":
        # Otherwise the memory of large feature maps goes back to the system after each step, which zeroes it again before the next:
        # a third to half of the time on a CPU. M_MMAP_MAX = 0 and M_TRIM_THRESHOLD prevent that; see mallopt(3).
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)
    return device


def release_memory() -> None:
    """Give free memory back to the system, which `prepare` prevents, so that what comes next need not come on top of it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def micro_batches(rows: int, device: torch.device) -> list[slice]:
    """The slices of so many rows that pass a network together: few on a CPU, where they are as fast as many, in a fraction of the
    memory."""
    size = 16 if device.type == "cpu" else 64
    return [slice(start, start + size) for start in range(0, rows, size)]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for convolutions and matrix products where the hardware has it, which is nearly twice as fast; else float32.

    For training only: a trained model predicts in float32, so that it says the same on all machines and as ONNX.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)
