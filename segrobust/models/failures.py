"""What goes wrong inside a network, in one line with its name and the size of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed import DistError
from torch.nn import functional as F

from segrobust.core.errors import UserError

DIVISORS = (32, 64, 128)  # what networks want sizes to be multiples of; 32 serves those of 8 and 16 too
# what torch's allocator for the CPU says, and what libraries say of a GPU whose memory they ask for themselves
FULL = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "_ALLOCATION_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, on a GPU or of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in FULL)


def of_the_machine(error: BaseException) -> bool:
    """Whether a GPU or another process failed, which says nothing of the network that met with it.

    A GPU is of no use to this process after such an error; ``segrobust.core.processes`` knows those of connections.
    """
    lost = type(error) is RuntimeError and ("by peer" in str(error) or "/gloo/" in str(error))  # it has no other class
    return lost or isinstance(error, torch.AcceleratorError | DistError | ConnectionError)


@contextmanager
def network_errors(
    name: str,
    images: Tensor,
    network: Callable[[Tensor], Tensor],
    advice: str,
    trained_size: tuple[int, int] | None = None,
) -> Iterator[None]:
    """Any error inside becomes a :class:`UserError` with that error as its cause; lack of memory, and what the machine
    failed with, go through.

    Args:
        network: tried with images ``[1, 3, H, W]`` of sizes that networks like.
        advice: how to pad to multiples of ``{divisor}``, which is told where the network then works.
        trained_size: (height, width) that is told where the network works with that alone.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a network is a user's program and fails in its own ways
        if out_of_memory(error) or of_the_machine(error):
            raise
        size = "x".join(map(str, images.shape[-2:]))
        reason = " ".join(str(error).split())[:300] or "no message"
        message = f"{name} fails on images of {size}: {type(error).__name__}: {reason}"
        raise UserError(message + _other_size(images[:1].detach(), network, advice, trained_size)) from error


def _other_size(
    image: Tensor, network: Callable[[Tensor], Tensor], advice: str, trained_size: tuple[int, int] | None
) -> str:
    if _accepts(network, image):  # then it is something else than the size
        return ""
    height, width = image.shape[-2:]
    for divisor in DIVISORS:
        right, bottom = -width % divisor, -height % divisor
        if (right or bottom) and _accepts(network, F.pad(image, (0, right, 0, bottom))):
            taken = f"{height + bottom}x{width + right}"
            return f"; the network refuses this size but takes {taken}: {advice.format(divisor=divisor)}"
    if trained_size not in (None, (height, width)) and _accepts(network, image.new_zeros(1, 3, *trained_size)):
        taken = "x".join(map(str, trained_size))
        return (f"; the network refuses this size but takes that of its training, {taken}: resize the images to it "
                "in the test pipeline, with keep_ratio=False")  # fmt: skip
    return ""


@torch.no_grad()
def _accepts(network: Callable[[Tensor], Tensor], image: Tensor) -> bool:
    try:
        network(image)
    except Exception:  # the first error is the one to tell
        return False
    return True


def modules_that_write_on_their_input(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the innermost modules that change what they are given, in one forward, in the order of their calls."""
    versions: dict[nn.Module, tuple[Tensor, int]] = {}
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def before(module: nn.Module, inputs: tuple) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            versions[module] = inputs[0], inputs[0]._version

    def after(module: nn.Module, *_: object) -> None:
        tensor, version = versions.pop(module, (None, 0))
        inner = any(name.startswith(f"{names[module]}.") for name in found)
        if tensor is not None and tensor._version != version and names[module] and not inner:
            found.append(names[module])

    handles = [module.register_forward_pre_hook(before) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(found))
