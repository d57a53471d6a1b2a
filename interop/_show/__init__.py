"""How things are named and shown: text for messages and terminals, HTML for notebooks, the caller's line."""
