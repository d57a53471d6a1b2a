def dlpack_capsule(
    owner: object,
    versioned: bool,
    read_only: bool,
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: tuple[int, int, int],
    device: tuple[int, int],
    /,
) -> object: ...
