"""Every library with every kind of array: each array is refused by interop, or the library makes the same values of it.

Each library runs in a process of its own: an array that it cannot take may end the process.
"""

import json
import subprocess
import sys

import pytest

CASES = {
    "plain": "base",
    "negative": "base[0, ::-1]",
    "negative in both": "base[::-1, ::-1]",
    "zero": "cupy.broadcast_to(base[0], (3, 4))",
    "overlapping": "cupy.lib.stride_tricks.as_strided(base, (4, 3), (4, 4))",
    "transposed": "base.T",
    "gaps": "base[:, ::2]",
    "empty": "base[:0]",
    "0-d": "base[1, 1]",
    "3-d": "base.reshape(3, 2, 2)",
    "9-d": "base.reshape(1, 1, 1, 1, 1, 1, 1, 3, 4)",
    "33-d": "base.reshape(*[1] * 31, 3, 4)",
    "unaligned": "unaligned",
    "one row": "base[1:2]",
}
REFUSED = {
    "cupy": {"unaligned"},
    "numba": {"unaligned"},
    "numba_cuda_mlir": {"unaligned"},
    "torch": {"unaligned", "negative", "negative in both"},
    "jax": {"unaligned", "negative", "negative in both", "zero", "overlapping", "gaps"},
    "cuda.core": set(),
    "tvm_ffi": {"unaligned"},
    "warp": {"unaligned", "0-d", "9-d", "33-d"},
}
PROGRAM = """
import json, sys
import cupy, numpy as np
import interop
from interop.errors import NotSupportedError
library, route, cases = sys.argv[1], sys.argv[2], json.load(sys.stdin)
if library == "warp":
    import warp
    warp.config.quiet = True
p, c = interop.new_stream(), interop.new_stream()
base = cupy.arange(12, dtype="f4").reshape(3, 4)
raw = cupy.zeros(64, dtype="u1")
unaligned = cupy.ndarray((4,), "f4", raw.data + 1)

class Interface:
    def __init__(self, array):
        self.array = array
    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, "stream": None}

def values(view):
    if library == "cupy":
        return view.get()
    if library == "torch":
        return view.cpu().numpy()
    if library == "jax":
        return np.asarray(view)
    if library == "warp":
        return view.numpy()
    return cupy.asarray(interop.handoff(view, c, producer=c, into="cupy")).get()

found = {}
for name, code in cases.items():
    print(name, file=sys.stderr, flush=True)
    array = eval(code)
    expected = array.get()
    source = {"own": array, "interface": Interface(array)}[route]
    try:
        view = interop.handoff(source, c, producer=p, into=library)
    except NotSupportedError as error:
        found[name] = "refused" if f"{library} takes no array" in str(error) else str(error)
        continue
    if name == "unaligned":
        found[name] = "taken"
        continue
    seen = values(view)
    same = seen.shape == expected.shape and bool((seen == expected).all())
    found[name] = "taken" if same else f"{seen.tolist()} for {expected.tolist()}"
    del view
print(json.dumps(found))
"""


@pytest.mark.parametrize("route", ["own", "interface"])
@pytest.mark.parametrize("library", REFUSED)
def test_each_kind_of_array_is_made_or_refused(library, route, interop_need):
    interop_need("cupy", library)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library, route],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode} in {done.stderr[-3000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {case: "refused" if case in REFUSED[library] else "taken" for case in CASES}


SOURCES = """
import importlib, json, sys
import cupy, numpy as np
import interop
p, c = interop.new_stream(), interop.new_stream()
library = sys.argv[1]
base = np.arange(12, dtype="f4").reshape(3, 4)
if library.startswith("numba"):
    cuda = importlib.import_module(library + ".cuda")
    whole = cuda.to_device(base)
    DeviceNDArray = type(whole)
    arrays = {
        "plain": whole, "transposed": whole.T, "gaps": whole[:, ::2], "empty": whole[:0],
        "zero": DeviceNDArray((3, 4), (0, 4), "f4", gpu_data=whole.gpu_data),
    }
    expected = {"zero": np.broadcast_to(base[0], (3, 4))}
elif library == "torch":
    import torch
    whole = torch.from_numpy(base).cuda()
    arrays = {"plain": whole, "transposed": whole.T, "gaps": whole[:, ::2], "empty": whole[:0],
              "zero": whole[0].expand(3, 4)}
    expected = {"zero": np.broadcast_to(base[0], (3, 4))}
elif library == "jax":
    import jax.numpy as jnp
    whole = jnp.asarray(base)
    arrays = {"plain": whole, "transposed": whole.T, "gaps": whole[:, ::2], "empty": whole[:0]}
    expected = {}
elif library == "warp":
    import warp
    warp.config.quiet = True
    whole = warp.array(base, dtype=warp.float32, device="cuda:0")
    arrays = {"plain": whole, "transposed": whole.transpose(), "gaps": whole[:, ::2], "empty": whole[:0]}
    expected = {}
expected = {"plain": base, "transposed": base.T, "gaps": base[:, ::2], "empty": base[:0], **expected}
cupy.cuda.Device().synchronize()
found = {}
for name, array in arrays.items():
    allow = "allow" if library == "jax" else None
    view = interop.handoff(array, c, producer=p, into="cupy", read_only=allow)
    seen = view.get()
    same = seen.shape == expected[name].shape and bool((seen == expected[name]).all())
    found[name] = same or f"{seen.tolist()} for {expected[name].tolist()}"
print(json.dumps(found))
"""


@pytest.mark.parametrize("library", ["numba", "numba_cuda_mlir", "torch", "jax", "warp"])
def test_each_kind_of_source_is_read(library, interop_need):
    """interop reads the arrays by their attributes: Numba's array interface is wrong for a broadcast array."""
    interop_need("cupy", library)
    done = subprocess.run(
        [sys.executable, "-c", SOURCES, library], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [name for name, same in found.items() if same is not True] == [], found
