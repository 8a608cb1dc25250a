"""Parts of mobile networks: convolutions as TensorFlow pads them, inverted residual blocks, batches filled up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import get_worker_info

# With one thread, as loading processes have, torch hands 1x1 convolutions of fewer photos to another library, whose
# results differ in the last bits. Filled up, a photo has the same cells as in a process with several threads.
FEWEST = 16
BATCHNORM_EPSILON = 1e-3  # TensorFlow's, which the weights were trained with
State = Mapping[str, Tensor]


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding, BatchNorm folded in."""

    def __init__(self, state: State, conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        weight = state[f"{conv}.weight"].double()
        scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + BATCHNORM_EPSILON).sqrt()
        shift = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
        folded = (weight * scale[:, None, None, None]).float().contiguous(memory_format=torch.channels_last)
        self.weight, self.bias = nn.Parameter(folded, requires_grad=False), nn.Parameter(shift.float(), False)
        self.stride, self.relu, self.kernel = stride, relu, weight.shape[-1]
        self.groups = len(weight) if weight.shape[1] == 1 and self.kernel > 1 else 1

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            padding = self.kernel // 2
        else:
            padding, sides = 0, (x.shape[-1], x.shape[-2])
            x = functional.pad(x, [pixels for side in sides for pixels in same_padding(side, self.kernel, self.stride)])
        if fuses_bfloat16(x):
            return self.fused(x, padding)
        x = functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return functional.hardtanh_(x, 0, 6) if self.relu else x

    def fused(self, x: Tensor, padding: int) -> Tensor:
        """Convolution and ReLU6 in bfloat16, in one pass over memory: alone, ReLU6 takes as long as the convolution."""
        inputs = (values.to(torch.bfloat16) for values in (x, self.weight, self.bias))
        shape = [padding] * 2, [self.stride] * 2, [1, 1], self.groups
        relu = ("hardtanh", [0, 6], "") if self.relu else ("none", [], "")
        return torch.ops.mkldnn._convolution_pointwise(*inputs, *shape, *relu)


class InvertedResidual(nn.Module):
    """Expansion (where there is one), depthwise convolution and projection; a residual where the shapes are equal.

    Source: Sandler et al., MobileNetV2 (CVPR 2018), figure 3.
    """

    def __init__(self, *steps: SameConv) -> None:
        super().__init__()
        widens = len(steps) == 3
        self.steps = nn.Sequential(*steps)
        same_width = steps[0].weight.shape[1 if widens else 0] == len(steps[-1].weight)
        self.residual = same_width and all(step.stride == 1 for step in steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x).add_(x) if self.residual else self.steps(x)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after a side so that ceil(side / stride) come out; the odd one goes after.

    >>> same_padding(300, 3, 2), same_padding(75, 3, 2)
    ((0, 1), (1, 1))
    """
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def filled_up(batch: Tensor) -> Tensor:
    """The batch, in a loading process repeated to FEWEST photos where it has fewer."""
    if get_worker_info() is None or len(batch) >= FEWEST:
        return batch
    return batch[torch.arange(FEWEST) % len(batch)]


def fuses_bfloat16(x: Tensor) -> bool:
    """Whether bfloat16 is asked for on a CPU, and oneDNN's fused convolution is there, which torch.compile calls too.

    float32 keeps the plain form: the fused one rounds otherwise, and gains 13% there.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # not without AVX-512: the fused form raises there
    )
