"""Programs compiled for accelerators that are not there, and the reading of a compiled program's text."""

import json
import re
import subprocess
import sys

import pytest

from alexnet_jax import UserError
from experiments.benchmarks import accelerators, compiled, kernels, two_gpu_step

TEXT = """HloModule example, is_scheduled=true

%fused (p.0: f32[10,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[10,8]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%p.0, %p.1, %zero), metadata={op_name="jit(f)/jvp(conv1)/mul"}
}

%body (state: (s32[], f32[10,8])) -> (s32[], f32[10,8]) {
  %state = (s32[], f32[10,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[10,8]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[10,8]{1,0}) tuple(%i, %x)
}

%condition (state.1: (s32[], f32[10,8])) -> pred[] {
  %state.1 = (s32[], f32[10,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(10)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[4,3], b: pred[5]) -> f32[10,8] {
  %a = bf16[4,3]{1,0} parameter(0)
  %b = pred[5]{0} parameter(1)
  %near = bf16[4,3]{1,0:T(8,128)(2,1)S(1)} copy(%a)
  %ahead = ((bf16[4,3]{1,0}), bf16[2,3]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:3]}
  %both = (bf16[4,3]{1,0}, f32[10,8]{1,0}) custom-call(%near, %b), custom_call_target="__cudnn$conv"
  %first = f32[10,8]{1,0} get-tuple-element(%both), index=1
  %count = s32[] constant(0)
  %start = (s32[], f32[10,8]{1,0}) tuple(%count, %first)
  %loop = (s32[], f32[10,8]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %end = f32[10,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_the_bytes_of_a_program_are_those_of_operands_and_results_in_the_large_memory():
    found = {kernel.name: kernel for kernel in kernels.kernels(kernels.parse(TEXT))}
    assert found.keys() == {"near", "ahead", "both", "row"}
    assert found["near"].bytes == 4 * 3 * 2  # read; the copy lies in the fast memory
    assert found["ahead"].bytes == 2 * 3 * 2  # half of it
    assert found["both"].bytes == 5 + 4 * 3 * 2 + 10 * 8 * 4
    assert found["both"].target == "__cudnn$conv"
    assert found["row"].bytes == 10 * (8 * 4 + 8 * 4 + 4)  # ten turns: a row read, a row written, and its number
    assert found["row"].operations == ("jit(f)/jvp(conv1)/mul",)


MORE = """%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

%update (p.0: f32[10,8], p.1: f32[1,8], p.2: s32[]) -> f32[10,8] {
  %p.0 = f32[10,8]{1,0} parameter(0)
  %p.1 = f32[1,8]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  ROOT %updated = f32[10,8]{1,0} dynamic-update-slice(%p.0, %p.1, %p.2, %p.2)
}

%body (state: (f32[100], f32[10,8], f32[1,8], s32[])) -> (f32[100], f32[10,8], f32[1,8], s32[]) {
  %state = (f32[100]{0}, f32[10,8]{1,0}, f32[1,8]{1,0}, s32[]) parameter(0)
  %a = f32[100]{0} get-tuple-element(%state), index=0
  %b = f32[10,8]{1,0} get-tuple-element(%state), index=1
  %c = f32[1,8]{1,0} get-tuple-element(%state), index=2
  %i = s32[] get-tuple-element(%state), index=3
  %sum-start = f32[100]{0} all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%sum
  %sum-done = f32[100]{0} all-reduce-done(%sum-start)
  %new = f32[10,8]{1,0} fusion(%b, %c, %i), kind=kLoop, calls=%update
  ROOT %next = (f32[100]{0}, f32[10,8]{1,0}, f32[1,8]{1,0}, s32[]) tuple(%sum-done, %new, %c, %i)
}

ENTRY %main (s: (f32[100], f32[10,8], f32[1,8], s32[])) -> f32[2] {
  %s = (f32[100]{0}, f32[10,8]{1,0}, f32[1,8]{1,0}, s32[]) parameter(0)
  %loop = (f32[100]{0}, f32[10,8]{1,0}, f32[1,8]{1,0}, s32[]) while(%s), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %end = f32[100]{0} get-tuple-element(%loop), index=0
  ROOT %part = f32[2]{0} slice(%end), slice={[0:2]}
}
"""  # noqa: E501


def test_what_a_loop_does_is_counted_in_each_of_its_turns():
    program = kernels.parse(MORE)
    found = {kernel.name: kernel.bytes for kernel in kernels.kernels(program)}
    # A sum reads and writes all; an update in place reads and writes its part, and reads the index; so does a slice.
    assert found == {"sum-start": 7 * 2 * 400, "new": 7 * (32 + 32 + 32 + 4), "part": 16}
    numbers = compiled.exchanged(program, 1, 2)
    assert numbers == {"collectives": {"all-reduce": 7}, "received": {"towers": 7 * 400, "rows": 0}}


def test_a_program_with_branches_is_refused():
    branch = "  ROOT %c = f32[2]{0} conditional(%a), true_computation=%t, false_computation=%f"
    with pytest.raises(ValueError, match="which branch of c"):
        list(kernels.kernels(kernels.parse(f"ENTRY %main (a: pred[]) -> f32[2] {{\n{branch}\n}}")))


def test_the_largest_batch_lies_on_the_line_through_two():
    target = accelerators.ACCELERATORS["tpu-v5e"]  # 16 GiB
    smaller, larger = ({"batch_size": n, "memory": 2**30 + n * 2**20} for n in (512, 1024))
    assert compiled.largest_batch(target, smaller, larger) == 15 * 1024
    assert compiled.largest_batch(target, smaller, smaller | {"batch_size": 1024}) is None


def test_an_instruction_in_an_unknown_notation_is_refused():
    with pytest.raises(ValueError, match="written in an unknown way"):
        kernels.parse("ENTRY %main (a: f32[2]) -> f32[2] {\n  %a = f32[2]{0} no operation\n}")


def test_kernels_belong_to_their_layers():
    def kernel(opcode, *operations):
        return kernels.Kernel("k", opcode, "", 1, opcode != "copy", operations)

    net = two_gpu_step.NET
    assert compiled.place(kernel("copy", "jit(f)/jvp(conv1)/norm/mul"), net) == ("conv1", "forward others")
    backward = "jit(f)/transpose(jvp(shard_map))/conv2/conv_general_dilated"
    assert compiled.place(kernel("custom-call", backward), net) == ("conv2", "backward products")
    assert compiled.place(kernel("copy", "jit(f)/optimizer/add"), net) == ("optimizer", "forward others")
    assert compiled.place(kernel("copy"), net) == ("others", "forward others")


def test_a_target_that_does_not_exist_is_refused(run_command):
    status, _, error = run_command(compiled.main, "--target=h100,gtx580")
    assert status != 0 and "'gtx580' is none of h100, a100" in error


def test_a_mesh_in_another_notation_is_refused(run_command):
    status, _, error = run_command(compiled.main, "--mesh=2x3")
    assert status != 0 and "no list of meshes like 1x1,1x2" in error


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setitem(accelerators.PACKAGES, "tpu", ("no-such-package", "jax[tpu]"))
    with pytest.raises(UserError, match=r"no compiler for Google TPU v5e; .*pip install 'jax\[tpu\]'"):
        accelerators.ACCELERATORS["tpu-v5e"].devices(4)


# In processes of their own: the compilers leave threads and settings behind.
SCRIPT = """
import json, sys
from alexnet_jax.runtime import command_line
from experiments.benchmarks import accelerators, compiled, kernels, two_gpu_step
from alexnet_jax.model import nets

accelerators.set_up()
command_line.set_up_jax(1)
target, data = accelerators.ACCELERATORS[sys.argv[1]], int(sys.argv[2])
config = two_gpu_step.load_config(128 * data)
config.model.dtype = "bfloat16"
program = compiled.compile_(target, data, 2, config)
parsed = kernels.parse(program.as_text())
print(json.dumps({
    **compiled.exchanged(parsed, data, 2),
    "least": compiled.least_exchanged(nets.from_config(config.model), data, 2, 128),
    "memory": compiled.memory(program),
    "fits": target.memory,
    "targets": sorted({kernel.target for kernel in kernels.kernels(parsed)}),
    "fused": sum("relu_norm_pool" in name for k in kernels.kernels(parsed) for name in k.operations[:1]),
    "dtypes": sorted(kernels.by_dtype(parsed)),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "data"), [("h100", 1), ("tpu-v5e", 2)])
def test_the_step_compiles_for_accelerators_with_the_collectives_of_figure_2(target, data):
    if not accelerators.ACCELERATORS[target].has_compiler:
        pytest.skip("no compiler: pip install 'jax[cuda13,tpu]'")
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, target, str(data)], capture_output=True, text=True, check=True
    )
    found = json.loads(output.stdout.splitlines()[-1])
    sums = {"all-reduce": 2} if data > 1 else {}
    assert found["collectives"] == {"all-gather": 4, "reduce-scatter": 3} | sums
    assert found["received"] == found["least"]
    assert found["memory"] < found["fits"]
    assert not {"f64", "c64", "c128"} & set(found["dtypes"])
    assert found["fused"] == 6  # after conv1, conv2 and conv5, forward and backward
    ours = r"__cudnn|__cublas|__triton|__gpu\$xla.gpu.triton|tpu_custom_call|ConcatBitcast|^$"
    assert not [name for name in found["targets"] if not re.search(ours, name)], found["targets"]


SEVERAL_STEPS = """
import collections, json, re
import jax, numpy as np
from alexnet_jax.data import augment, base
from alexnet_jax.runtime import command_line, sharding
from alexnet_jax.training import step
from experiments.benchmarks import accelerators, communication, compiled, two_gpu_step

accelerators.set_up()
command_line.set_up_jax(1)
target = accelerators.ACCELERATORS["h100"]
mesh, config, net = target.mesh(1, 2), two_gpu_step.load_config(128), two_gpu_step.NET
params, batch = two_gpu_step.arguments(net, mesh, 128)
_, rates = two_gpu_step.make_step(config, net, mesh)
most, everywhere = step.steps_at_once(mesh, True, 128), jax.NamedSharding(mesh, jax.P())
batches = {sharding.WHOLE + name: jax.ShapeDtypeStruct((9469, *x.shape[1:]), x.dtype, sharding=everywhere)
           for name, x in batch.items()}
batches["index"] = jax.ShapeDtypeStruct((128, most), np.int32, sharding=batch["label"].sharding)
augmentation = augment.from_config(config.augment, net.image_size, base.IMAGENET)
optimizer = two_gpu_step.make_optimizer(config, net)
loop = step.compile_step(net, mesh, augmentation, optimizer, config.seed, several=True)
rates = jax.tree.map(lambda rate: np.full(most, rate, np.float32), rates)
arguments = params, params, batches, 0, 7, rates, np.ones(most, bool)
several = loop.lower(*arguments).compile(target.compiler_options)
single = two_gpu_step.lower_step(config, net, mesh).compile(target.compiler_options)
text = several.as_text()
print(json.dumps({
    "most": most,
    "loops": len(re.findall(r" while\\(", text)),
    "collectives": collections.Counter(op for op, *_ in communication.read_collectives(text)),
    "several": several.memory_analysis().temp_size_in_bytes,
    "single": single.memory_analysis().temp_size_in_bytes,
}))
"""


@pytest.mark.slow
def test_several_steps_compile_to_a_loop_with_the_collectives_and_the_memory_of_one():
    if not accelerators.ACCELERATORS["h100"].has_compiler:
        pytest.skip("no compiler: pip install 'jax[cuda13]'")
    output = subprocess.run([sys.executable, "-c", SEVERAL_STEPS], capture_output=True, text=True, check=True)
    found = json.loads(output.stdout.splitlines()[-1])
    assert found["most"] == 32 and found["loops"] == 1
    assert found["collectives"] == {"all-gather": 4, "reduce-scatter": 3}
    assert found["several"] < 1.1 * found["single"]  # neither the images nor the parameters are copied
