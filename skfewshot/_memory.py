"""What is done when a GPU runs out of memory: the same again in smaller chunks."""

import gc

#: Rows of a chunk below which less memory is not to be had.
LEAST_ROWS = 64


def in_chunks(solve, chunk_size):
    """Return ``solve(chunk_size)``, with half the chunk wherever memory runs out.

    Parameters
    ----------
    solve : callable
        ``solve(chunk_size)``; a second call must not depend on the first.
    chunk_size : int
        Rows handled at once, at first.

    Returns
    -------
    object
        What `solve` returned.

    Raises
    ------
    torch.OutOfMemoryError
        If memory is too short for chunks of `LEAST_ROWS`, or for smaller ones given.
    """
    import torch

    # The name that every supported torch has; torch.OutOfMemoryError is the same.
    OutOfMemoryError = torch.cuda.OutOfMemoryError
    while True:
        try:
            return solve(chunk_size)
        except OutOfMemoryError as error:
            # The error holds every tensor of the attempt, up to the end of this block.
            reason = str(error)
        gc.collect()
        torch.cuda.empty_cache()
        if chunk_size <= LEAST_ROWS:
            break
        chunk_size = max(LEAST_ROWS, chunk_size // 2)
    raise OutOfMemoryError(
        f"The GPU ran out of memory even with chunks of {chunk_size} rows. Fit with "
        "device='cpu', free memory that other models hold, or take fewer rows or "
        f"classes. {reason}"
    )
