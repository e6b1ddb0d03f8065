"""Where the fused kernels can be tested: on a GPU or, interpreted, on the CPU."""

import torch
from torch import Tensor

GPU = torch.cuda.is_available()


def where_kernels_run(function):
    """The function with its tensors, positional ones, moved to a GPU where there is one; its results come back."""

    def there(*tensors):
        results = function(*(x.to("cuda" if GPU else "cpu") for x in tensors))
        return results.to(tensors[0].device) if isinstance(results, Tensor) else results

    return there
