"""The engine's errors, one tree.

EngineError
├── ArchiveError            an archive that is corrupt, unsafe or past a limit
├── CompilationError        a model that cannot be compiled as asked
│   ├── TargetError         an unknown target, or one whose compiler is absent
│   └── DataInputError      a DataInputConfig that is malformed or does not fit the model
├── ParityError             outputs that miss what they are held to
├── BundleError             a bundle that is incomplete, altered, or of another version
├── InferenceError          inputs that do not fit the model, or a run that failed
├── BatchError              a batch that cannot be planned, run or merged
│   ├── BudgetError         more records failed than may
│   └── DiskFullError       no space for what a batch spools
└── ReportError             a delivery that cannot be drawn

Each message names the thing (file, member, input, target) and says what to do next.
"""


class EngineError(Exception):
    """Anything the engine refuses or fails at."""


class ArchiveError(EngineError):
    """An archive is corrupt, unsafe to extract, or expands past a limit."""


class CompilationError(EngineError):
    """A model cannot be compiled as the request asks."""


class TargetError(CompilationError):
    """A compilation target is unknown, or needs a compiler that is not here."""


class DataInputError(CompilationError):
    """A DataInputConfig is malformed or does not fit the model's inputs."""


class ParityError(EngineError):
    """A model's outputs differ from the expected ones by more than the tolerance."""


class BundleError(EngineError):
    """A bundle is incomplete, was altered, or has another schema version."""


class InferenceError(EngineError):
    """Inputs do not fit the model, or the runtime failed on them."""


class BatchError(EngineError):
    """A batch cannot be planned, run or merged."""


class BudgetError(BatchError):
    """More records of a batch failed than its error budget allows."""


class DiskFullError(BatchError):
    """No space is left on the disk for what a batch spools."""


class ReportError(EngineError):
    """A delivery's report cannot be drawn from what was given."""


def one_line(error: BaseException, limit: int = 500) -> str:
    """Return another library's message on one line, at most ``limit`` characters of it."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[:limit]}…"
