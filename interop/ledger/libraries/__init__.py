"""What each library says of its own calls, while a ledger is open: one module a library, loaded when the library is."""
