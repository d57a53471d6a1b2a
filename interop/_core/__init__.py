"""What streams and events are made of."""
