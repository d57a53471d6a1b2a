"""A process forks while the GPU works: the child's calls fail at once, and the child exits by itself."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, os, sys, time
import interop
from interop.errors import InteropError
from interop.testing import slow
PENDING, LIBRARY = sys.argv[1] == "pending", sys.argv[2]
p, q, legacy = interop.new_stream(), interop.new_stream(), interop.ExternalStream(1, 0)
event = p.record_event()
q.wait_stream(p)
if LIBRARY == "cupy":
    import cupy
    with p:
        array = cupy.ones(1000)
    view = interop.handoff(array, q)
    interop.hold(q, array)
slow(q, 1)  # loads its kernel
q.synchronize()
if PENDING:
    slow(q, 3000)
    slow(p, 3000)
calls = [p.query, p.synchronize, p.record_event, lambda: p.wait_stream(q), lambda: p.wait_event(event), legacy.query,
         lambda: legacy.wait_stream(p), event.query, event.synchronize, lambda: interop.Event().record(p),
         interop.new_stream, p.__enter__, lambda: p.stream_id, lambda: p.synchronize(1)]
if LIBRARY == "cupy":
    calls += [lambda: interop.handoff(view, p), lambda: interop.handoff(array, q, producer=p)]
found = []
for _ in range(20):
    began = time.monotonic()
    child = os.fork()
    if not child:
        silent = 0
        for call in calls:
            try:
                call()
                silent += 1
            except InteropError:
                pass
        sys.exit(7 + silent)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > 20:
            os.kill(child, 9)
        time.sleep(0.001)
    found.append((ended[1], time.monotonic() - began))
p.wait_stream(q)  # calls in the parent still work
p.synchronize()
print(json.dumps(found))
"""


@pytest.mark.parametrize("library", ["none", "cupy"])
@pytest.mark.parametrize("work", ["done", "pending"])
def test_children_exit_at_once(work, library, interop_need):
    if library == "cupy":
        interop_need("cupy")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, work, library], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [status for status, _ in found] == [7 << 8] * 20, done.stderr
    assert max(seconds for _, seconds in found) < 5
