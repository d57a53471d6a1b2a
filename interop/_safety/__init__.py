"""What must hold whatever happens: blocks that are entered, and locks that a forked child finds free."""
