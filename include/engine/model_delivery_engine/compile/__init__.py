"""Compilation: an archive with a trained model becomes a bundle that carries its own evidence."""

from model_delivery_engine.compile.pipeline import compile_model
from model_delivery_engine.compile.request import CompilationRequest
from model_delivery_engine.compile.toolchain import toolchain
from model_delivery_engine.compile.wrap import is_bundle, wrap_artifact

__all__ = ["CompilationRequest", "compile_model", "is_bundle", "toolchain", "wrap_artifact"]
