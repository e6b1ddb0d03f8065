"""How many chunks to treat at a time."""

import torch

# On a CPU small enough that what a block needs stays in the caches, large enough that a call's overhead does not count;
# other devices want many at once.
_BYTES = {"cpu": 2 << 20}
_BYTES_ELSEWHERE = 128 << 20


def blocks_of(count: int, bytes_each: int, device: torch.device) -> list[slice]:
    """Slices that cover `count` chunks, as many at a time as suit the device when each takes `bytes_each`."""
    size = max(1, _BYTES.get(device.type, _BYTES_ELSEWHERE) // bytes_each)
    return [slice(i, i + size) for i in range(0, count, size)]
