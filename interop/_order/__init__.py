"""Who comes before whom: clocks of streams, and watchers that are told of every call."""
