"""How much memory the builder may use for a layer."""

from runtime.backends.gpu import free_gpu_memory

# Convolutions of these networks need far less; a Jetson shares its memory with everything else.
_MOST_WORKSPACE = 1 << 30


def workspace_bytes() -> int:
    """A gibibyte, or half of the GPU's free memory if that is less."""
    return min(_MOST_WORKSPACE, free_gpu_memory() // 2)
