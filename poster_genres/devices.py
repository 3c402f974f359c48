"""What torch computes on, and how."""

import ctypes
import platform

import torch


def choose_device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def prepare() -> torch.device:
    """Choose the device, and set torch up for long work on it; for stages, at their beginning."""
    device = choose_device()
    # On the CPU the same seed gives the same bytes; CUDA has no deterministic form of some of the operations. The same as
    # `torch.use_deterministic_algorithms`, which would import torch's compiler, for a second.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # Nothing here reads memory before it is written, so that it need not be cleared for that.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if platform.libc_ver()[0] == "glibc":
        # Large maps of features would be given back to the system after each step, and be cleared by it again before the next:
        # a third to half of the time on a CPU. M_MMAP_MAX = 0 and M_TRIM_THRESHOLD keep them; see mallopt(3).
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 2**31 - 1)
    return device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for convolutions and products where the machine computes in it, which is twice as fast; else plain float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
