"""What this machine computes with: devices, types and measured rates. Knows no model."""

import time
from functools import cache
from typing import TYPE_CHECKING, Literal

from workbench.errors import EngineError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def pick_device(device: str = "auto") -> "torch.device":
    """The torch device to use; `auto` is the first GPU, else the CPU. Raises EngineError for one that is not there."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f'--device {device}: not usable here ({str(error).splitlines()[0]}); try "cpu"') from None
    return picked


@cache
def matmul_rate(
    dtype: str, rows: int = 1024, inner: int = 576, columns: int = 1536, device: str = "cpu", seconds: float = 0.1
) -> float:
    """Best measured FLOP/s of `[rows, inner] @ [inner, columns]` in `dtype`, over about `seconds`.

    The best of the repetitions, not their mean: other work on the machine only ever slows it down.
    """
    import torch

    where = torch.device(device)
    x = torch.randn(rows, inner, device=where).to(getattr(torch, dtype))
    w = torch.randn(columns, inner, device=where).to(getattr(torch, dtype))
    best, spent, runs = float("inf"), 0.0, 0
    with torch.inference_mode():
        torch.nn.functional.linear(x, w)
        while spent < seconds or runs < 3:
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            took = time.perf_counter() - start
            best, spent, runs = min(best, took), spent + took, runs + 1
    return 2.0 * rows * inner * columns / best


def has_bfloat16_units() -> bool:
    """Can this CPU multiply bfloat16 matrices faster than float32 ones?"""
    import torch

    can = torch.cpu.get_capabilities()
    return any(can.get(unit, False) for unit in ("amx_bf16", "avx512_bf16", "sve_bf16"))


def compute_dtype(precision: Precision, device: "torch.device") -> tuple[str, str]:
    """(type the weights are rounded to, type the arithmetic uses) for a precision asked for.

    `auto` is bfloat16 on a GPU and on a CPU with bfloat16 units, else float32. A CPU without them multiplies bfloat16
    matrices at a fraction of its float32 rate: there, weights rounded to bfloat16 are computed with in float32, which
    is faster and at least as exact. Decided by what the CPU says it can do, not by a timing: a resumed run must decide
    the same.
    """
    if device.type != "cpu":
        return ("bfloat16", "bfloat16") if precision == "auto" else (precision, precision)
    if precision in ("float32", "float16"):
        return precision, "float32"
    native = has_bfloat16_units()
    if precision == "auto":
        return ("bfloat16", "bfloat16") if native else ("float32", "float32")
    return "bfloat16", "bfloat16" if native else "float32"
