"""What a GPU kernel does through each of its parameters: whether it reads or writes there."""
