"""What to compile and for what."""

from dataclasses import dataclass

from model_delivery_engine.targets import Target


@dataclass(frozen=True)
class CompilationRequest:
    """What to compile and for what.

    :param framework: a Framework of CreateCompilationJob
    :param data_input_config: JSON of input name to dimensions, ``{"image": [-1, 64]}``; None where
        the framework needs none
    :param target: from `resolve_target`
    :param name: name of the model in the manifest
    :param source_uri: where the archive came from
    :param compiler_options: JSON of CompilerOptions (default: none), see `options`
    """

    framework: str
    data_input_config: str | None
    target: Target
    name: str
    source_uri: str
    compiler_options: str | None = None
