"""The errors that SKD Edge raises on purpose. Those of a training run are defined there.

SkdEdgeError
├── UserError            the caller can mend it: received, expected, what to do (exit code 2)
│   ├── BundleError      not a bundle, a corrupt card, a file that does not match its digest
│   │   └── EngineMismatchError   an engine for another machine, version or ONNX file
│   ├── ImageError       an image that cannot be decoded or is over a limit; names the image
│   └── BackendError     a backend that was asked for and cannot run on this machine
│       ├── GpuError             no NVIDIA GPU to use; says what would mend it
│       ├── DeviceLostError      this process can never use its GPU again; only a new one can
│       └── OverloadedError      more requests than can be answered in time; try again later
└── VerificationError    a model file does not equal what was trained (exit code 3)
"""


class SkdEdgeError(Exception):
    """Base of every error raised on purpose."""


class UserError(SkdEdgeError, ValueError):
    """The caller's mistake. One line: what was received, what was expected, what to do."""


class BundleError(UserError):
    """A model file, bundle or card that cannot be opened."""


class EngineMismatchError(BundleError):
    """An engine whose record does not fit this machine; the message names the rebuild command."""


class ImageError(UserError):
    """An image that cannot be decoded or exceeds a limit; the message names it."""


class BackendError(UserError):
    """A backend that cannot run here."""


class GpuError(BackendError):
    """There is no NVIDIA GPU to use here; `remedy` says what would mend it."""

    def __init__(self, reason: str, *, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle, which would call `GpuError(reason)`."""
        return _gpu_error, (type(self), str(self), self.remedy)


def _gpu_error(kind: type[GpuError], reason: str, remedy: str) -> GpuError:
    return kind(reason, remedy=remedy)


class DeviceLostError(BackendError):
    """CUDA has failed in a way after which every further call in this process fails, too."""


class OverloadedError(BackendError):
    """A queue is full, or its answers would come too late."""


class VerificationError(SkdEdgeError):
    """A model file differs from the trained student by more than its precision allows."""


def first_line(error: Exception) -> str:
    """The first line of another package's error, or its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
