"""What interop's calls cost, beside those of other libraries and the same calls made from C.

``python -m benchmarks`` on a GPU measures everything, and writes ``benchmarks/results.json``, ``results.md`` and
``results.svg``. A map:

- ``measure``: rows, timed batch by batch, the rows taking turns, so that a drifting clock hits all of them
- ``baseline``, ``calls.c``: the same CUDA calls made from C
- ``lab``: streams, events and arrays, as each library sees them
- ``operations``, ``growth``, ``pingpong``: what is measured
- ``process``: what one process measures; ``startup``: what fresh processes do
- ``results``: the file, and its statistics; ``goals``, ``report``, ``plot``, ``compare``: what is made of it
- ``instructions``, ``stubs.c``: the instructions that a call takes, counted without a GPU; ``ledger``: what of them is
  the ledger's
"""
