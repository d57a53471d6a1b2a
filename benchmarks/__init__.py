"""The cost of interop's calls, beside the calls of other libraries and the same CUDA calls from C.

``python -m benchmarks`` on a GPU measures everything, and writes ``results.json``, ``results.md`` and ``results.svg``.

- ``measure``: times rows in turns, batch by batch, so that a drifting clock affects all of them alike
- ``baseline``, ``calls.c``: CUDA calls made from C
- ``lab``: the streams, events and arrays that the rows use
- ``operations``, ``handovers``, ``pingpong``, ``left``: what is measured
- ``process``: the process that measures
- ``results``: the JSON file; ``goals``, ``report``, ``plot``: read it
"""
