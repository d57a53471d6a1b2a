"""How things are named and shown: text for messages, HTML for notebooks, the caller's line."""
