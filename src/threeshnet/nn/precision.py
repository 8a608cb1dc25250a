"""Which precision a machine is fast in, and what a setting means by its name."""

from __future__ import annotations

import torch

from threeshnet.errors import ConfigError, one_of

FULL, BFLOAT16 = "32-true", "bf16-mixed"  # as Lightning names them
ASKED = ("auto", FULL, BFLOAT16, "16-mixed", "64-true")
SHORT = {"32": FULL, "bf16": BFLOAT16, "16": "16-mixed", "64": "64-true"}


def precision_of(asked: str, accelerator: str = "auto", key: str = "precision") -> str:
    """Lightning's name of a precision; `auto` is bfloat16 where the processor is fast in it, and float32 elsewhere.

    Raises ConfigError for a name that does not exist, and for float16 on a CPU.
    """
    name = SHORT.get(asked, asked)
    if name not in ASKED:
        raise ConfigError(one_of(key, asked, ASKED))
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not on_gpu and not torch.backends.mps.is_available())
    if name == "16-mixed" and on_cpu:
        raise ConfigError(f"{key}=16-mixed needs a GPU; on CPUs take bf16-mixed")
    if name != "auto":
        return name
    fast = (on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)) or (on_cpu and cpu_has_bfloat16())
    return BFLOAT16 if fast else FULL


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself, by AVX-512 or AMX."""
    able = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and bool(able.get("avx512_bf16") or able.get("amx_bf16"))
