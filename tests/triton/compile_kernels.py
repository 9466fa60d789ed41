"""Compile every kernel of a few steps to machine code for a GPU, on a machine that has none.

Triton's interpreter is more lenient than its compiler. Run without TRITON_INTERPRET:

    python -m tests.triton.compile_kernels 80 90        # compute capabilities, times ten
"""

from __future__ import annotations

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from pauc import PAUCConfig, init_queue
from pauc.core.batch import Rows
from pauc.presets import preset_for_budget
from pauc.triton import triton_options

TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
}


def launches_of(rows: Rows, options: dict) -> list[tuple[JITFunction, dict]]:
    """The kernels of a step, an entry and a backward pass, with the arguments of each."""
    from pauc.triton.step import take_step

    found = []

    def record(self, *args, grid, warmup, **keywords):
        del grid, warmup
        given = dict(zip(self.arg_names, args, strict=False)) | keywords
        found.append((self, {name: given[name] for name in self.arg_names}))

    run, check = JITFunction.run, torch._assert_async
    JITFunction.run, torch._assert_async = record, lambda *_: None
    try:
        multilabel = rows.targets.ndim == 2
        queue = init_queue(3000, rows.logits.shape[1], multilabel=multilabel)
        plan = triton_options(PAUCConfig(**options))
        outcome = take_step(rows, queue, plan, None, check_values=True)
        outcome.entry.into(queue, in_place=True)
        outcome.loss.sum().backward()
    finally:
        JITFunction.run, torch._assert_async = run, check
    return found


def compile_launch(kernel: JITFunction, given: dict, capability: int) -> None:
    signature, constants = {}, {}
    for parameter in kernel.params:
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    source = ASTSource(kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"enable_fp_fusion": False})
    print(capability, kernel.__name__, len(compiled.asm["cubin"]), flush=True)


def main() -> None:
    plain = Rows(torch.zeros(300, 1).requires_grad_(), torch.zeros(300, dtype=torch.int64))
    logits = torch.zeros(300, 5, dtype=torch.bfloat16).requires_grad_()
    full = Rows(logits, torch.zeros(300, dtype=torch.int32), torch.ones(300) > 0, torch.ones(300))
    more = {"quantile_interpolation": "nearest", "gradient_scale": "live", "bce_weight": 1.0}
    steps = launches_of(plain, {}) + launches_of(
        full, {"surrogate": "pairwise", "link": "logistic", "reduction": "none", **more}
    )
    recipe = preset_for_budget(0.01, batch_size=300, positive_rate=0.2).options
    logits = torch.zeros(300, 5, dtype=torch.float16).requires_grad_()
    steps += launches_of(Rows(logits, torch.zeros(300, 5)), recipe)
    for capability in map(int, sys.argv[1:]):
        for kernel, given in steps:
            compile_launch(kernel, given, capability)


if __name__ == "__main__":
    main()
