"""The driver's eye: every driver call of the process, whatever library makes it, read as work on memory.

While the program runs, its calls are only recorded. What they mean is worked out afterwards, from :class:`Call` to
:class:`interop.ledger.history.History`.
"""
