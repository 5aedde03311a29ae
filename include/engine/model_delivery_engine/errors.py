"""The engine's errors, one tree.

EngineError
├── ArchiveError            an archive that is corrupt, unsafe or past a limit
├── CompilationError        a model that cannot be compiled as asked
│   ├── TargetError         an unknown target, or one whose compiler is absent
│   ├── DataInputError      a DataInputConfig that is malformed or does not fit the model
│   ├── OptionsError        CompilerOptions that are malformed or name samples that do not fit
│   └── ConversionError     a framework's model that cannot be turned into ONNX
├── ToolchainError          this machine lacks what compiling needs: no fault of the model
├── ParityError             outputs that miss what they are held to
│   └── PrecisionError      inputs that single precision is too coarse for
├── BundleError             a bundle that is incomplete, altered, or of another version
├── InferenceError          inputs that do not fit the model, or a run that failed
│   ├── MemoryShortError    a model that needs more memory than it may have
│   └── TimeShortError      a run that did not end within its time
├── BatchError              a batch that cannot be planned, run or merged
│   ├── BudgetError         more records failed than may
│   ├── StoppedError        a run that was told to end; it goes on when it is run again
│   └── ShortageError       a machine short of memory; another try goes on
├── ReviewError             answers that cannot be reviewed, or reviews that cannot be used
│   └── ConditionsError     activation conditions that break their grammar
├── DiskFullError           no space on this machine's disk: no fault of what is read
└── ReportError             a delivery that cannot be drawn

Each message names the thing (file, member, input, target) and says what to do next. `Reason` types
it for programs: a report groups by it, a pipeline branches on it.
"""

import re
from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why the engine refused or failed, in a word that stays the same between releases."""

    UNSPECIFIED = "UNSPECIFIED"
    ARCHIVE_INVALID = "ARCHIVE_INVALID"
    MODEL_MISSING = "MODEL_MISSING"
    MODEL_AMBIGUOUS = "MODEL_AMBIGUOUS"
    MODEL_UNREADABLE = "MODEL_UNREADABLE"
    MODEL_INVALID = "MODEL_INVALID"
    MODEL_TOO_LARGE = "MODEL_TOO_LARGE"
    FRAMEWORK_UNKNOWN = "FRAMEWORK_UNKNOWN"
    FRAMEWORK_UNSUPPORTED = "FRAMEWORK_UNSUPPORTED"
    FRAMEWORK_MISMATCH = "FRAMEWORK_MISMATCH"
    UNTRUSTED_CODE = "UNTRUSTED_CODE"
    CONVERSION_FAILED = "CONVERSION_FAILED"
    CONVERSION_TIMEOUT = "CONVERSION_TIMEOUT"
    CONVERSION_MEMORY = "CONVERSION_MEMORY"
    OPERATOR_CUSTOM = "OPERATOR_CUSTOM"
    OPERATOR_UNSUPPORTED = "OPERATOR_UNSUPPORTED"
    OPSET_TOO_NEW = "OPSET_TOO_NEW"
    DATA_INPUT_INVALID = "DATA_INPUT_INVALID"
    SHAPE_MISMATCH = "SHAPE_MISMATCH"
    TENSOR_UNSUPPORTED = "TENSOR_UNSUPPORTED"
    WEIGHTS_NOT_FINITE = "WEIGHTS_NOT_FINITE"
    OUTPUT_NAN = "OUTPUT_NAN"
    TARGET_INVALID = "TARGET_INVALID"
    OPTIONS_INVALID = "OPTIONS_INVALID"
    SAMPLES_INVALID = "SAMPLES_INVALID"
    PARITY_FAILED = "PARITY_FAILED"
    SANDBOX_MISSING = "SANDBOX_MISSING"
    ENVIRONMENT_FAILED = "ENVIRONMENT_FAILED"
    DISK_FULL = "DISK_FULL"
    MEMORY_SHORT = "MEMORY_SHORT"


class EngineError(Exception):
    """Anything the engine refuses or fails at.

    :param reason: the type of the failure (default: the one usual for the class)
    :param operator: the model's operator or layer at fault, where there is one
    """

    usual: ClassVar[Reason] = Reason.UNSPECIFIED

    def __init__(
        self, message: str, *, reason: Reason | None = None, operator: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.usual
        self.operator = operator


class ArchiveError(EngineError):
    """An archive is corrupt, unsafe to extract, or expands past a limit."""

    usual = Reason.ARCHIVE_INVALID


class CompilationError(EngineError):
    """A model cannot be compiled as the request asks."""

    usual = Reason.MODEL_INVALID


class TargetError(CompilationError):
    """A compilation target is unknown, or needs a compiler that is not here."""

    usual = Reason.TARGET_INVALID


class DataInputError(CompilationError):
    """A DataInputConfig is malformed or does not fit the model's inputs."""

    usual = Reason.DATA_INPUT_INVALID


class OptionsError(CompilationError):
    """CompilerOptions are malformed, or name samples that do not fit the model."""

    usual = Reason.OPTIONS_INVALID


class ConversionError(CompilationError):
    """A framework's model cannot be turned into ONNX."""

    usual = Reason.CONVERSION_FAILED


class ToolchainError(EngineError):
    """This machine lacks what compiling needs; the model is not at fault."""

    usual = Reason.ENVIRONMENT_FAILED


class ParityError(EngineError):
    """A model's outputs differ from the expected ones by more than the tolerance."""

    usual = Reason.PARITY_FAILED


class PrecisionError(ParityError):
    """A model cannot answer the user's samples in single precision, whoever converts it."""


class BundleError(EngineError):
    """A bundle is incomplete, was altered, or has another schema version."""


class InferenceError(EngineError):
    """Inputs do not fit the model, or the runtime failed on them."""


class MemoryShortError(InferenceError):
    """A model needs more memory than this process may have."""

    usual = Reason.CONVERSION_MEMORY


class TimeShortError(InferenceError):
    """A model did not answer within the time of one run."""

    usual = Reason.CONVERSION_TIMEOUT


class BatchError(EngineError):
    """A batch cannot be planned, run or merged."""


class BudgetError(BatchError):
    """More records of a batch failed than its error budget allows."""


class StoppedError(BatchError):
    """A run was told to end before it was done; another goes on where it stopped."""


class ShortageError(BatchError):
    """This machine was short of memory, or its kernel killed a process: another try goes on."""

    usual = Reason.MEMORY_SHORT


class DiskFullError(EngineError):
    """No space is left on this machine's disk for what is unpacked, compiled or spooled."""

    usual = Reason.DISK_FULL


class ReviewError(EngineError):
    """Answers cannot be reviewed, or what reviewers said cannot be used."""


class ConditionsError(ReviewError):
    """Human loop activation conditions break their grammar."""


class RolloutError(EngineError):
    """A rollout's stages, limits or fleet cannot be used as they are given."""


class ReportError(EngineError):
    """A delivery's report cannot be drawn from what was given."""


_TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # bold, colours: TensorFlow writes them


def one_line(error: BaseException | str, limit: int = 500) -> str:
    """Return another library's message on one line, at most ``limit`` characters of it."""
    text = " ".join(_TERMINAL.sub("", str(error)).split())
    return text if len(text) <= limit else f"{text[:limit]}…"
