"""What a ledger is told of each library's own calls. One module a library, loaded only if the library is imported.

Each module has one function ``observe(ledger, patches)``. It replaces methods of the library by ones that also tell the
ledger, and notes in *patches* how to put the methods back.
"""
