"""Give what a compiler made the evidence that a delivery goes by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.sdk import BaseOperator, Context

from model_delivery import neo
from model_delivery.exceptions import DeliveryRefusedError, InvalidRequestError
from model_delivery.refusal import telling_refusal
from model_delivery.xcom import VERSION, BundledModel


class BundleModelOperator(BaseOperator):
    """Wraps a compiled artifact in a bundle: manifest, golden samples, the source model's parity.

    Neo answers with a vendor's artifact and no evidence. Where ONNX Runtime opens it, it is held to
    the source model's answers; otherwise the bundle says `runtime: neo`, and a device has to
    reproduce the source's answers. What localcloud compiled is a bundle already: it is verified and
    left where it is, so the same task serves both.

    A model of another framework than ONNX is read in bubblewrap, as in localcloud.

    :param model_uri: URI of the model archive that was compiled.
    :param artifact_uri: URI of what the compiler made of it.
    :param artifact_digest: digest that the job has for it. A bundle of another one is refused: a
        later job wrote to the same place. (default: none)
    :param output_uri: URI of the bundle to write.
    :param framework: framework of the model.
    :param data_input_config: shapes of the inputs, as the compilation job was given them.
        (default: none)
    :param target_device: what it was compiled for; or
    :param target_platform: {"Os", "Arch", "Accelerator"}.
    :param compiler_options: options that the job was given. (default: none)
    :param model_name: name of the model in the manifest. (default: the artifact's)
    :param aws_conn_id: connection of `s3://` URIs.
    :param wasb_conn_id: connection of Azure Blob URIs.
    """

    template_fields: Sequence[str] = (
        "model_uri", "artifact_uri", "artifact_digest", "output_uri", "framework",
        "data_input_config", "target_device", "target_platform", "compiler_options", "model_name",
        "aws_conn_id", "wasb_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model_uri: str,
        artifact_uri: str,
        artifact_digest: str | None = None,
        output_uri: str,
        framework: str,
        data_input_config: str | Mapping[str, Any] | Sequence[Any] | None = None,
        target_device: str | None = None,
        target_platform: Mapping[str, str] | None = None,
        compiler_options: str | Mapping[str, Any] | None = None,
        model_name: str | None = None,
        aws_conn_id: str = "aws_default",
        wasb_conn_id: str = "wasb_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_uri = model_uri
        self.artifact_uri = artifact_uri
        self.artifact_digest = artifact_digest
        self.output_uri = output_uri
        self.framework = framework
        self.data_input_config = data_input_config
        self.target_device = target_device
        self.target_platform = target_platform
        self.compiler_options = compiler_options
        self.model_name = model_name
        self.aws_conn_id = aws_conn_id
        self.wasb_conn_id = wasb_conn_id

    def execute(self, context: Context) -> BundledModel:
        """Verify a bundle, or make one; where it is refused, say why in XCom too."""
        with telling_refusal(context):
            return self._verified_or_made()

    def _verified_or_made(self) -> BundledModel:
        from model_delivery_engine.errors import DiskFullError, EngineError

        neo.check_target(self.target_device, self.target_platform)
        if not self.output_uri.endswith(neo.ARCHIVE_ENDING):
            raise InvalidRequestError(
                f"output_uri {self.output_uri!r} must name a {neo.ARCHIVE_ENDING} file"
            )
        with TemporaryDirectory(prefix="model-delivery-") as name:
            try:
                return self._bundle(Path(name))
            except DiskFullError:  # this worker's fault: a retry may run on another
                raise
            except EngineError as error:
                raise DeliveryRefusedError(f"{self.artifact_uri}: {error}") from error

    def _bundle(self, folder: Path) -> BundledModel:
        from model_delivery_engine.compile import is_bundle, wrap_artifact
        from model_delivery_engine.digest import digest_file
        from model_delivery_engine.manifest import ONNX_RUNTIME

        from model_delivery.hooks.storage import StorageHook

        storage = StorageHook(self.aws_conn_id, self.wasb_conn_id)
        # Messages name the files as the user does, who may give both one name.
        compiled, source = folder / "compiled", folder / "source"
        compiled.mkdir()
        source.mkdir()
        artifact = compiled / self.artifact_uri.rpartition("/")[2]
        storage.download(self.artifact_uri, artifact)
        if is_bundle(artifact):
            self.log.info("%s is a bundle already", self.artifact_uri)
            digest = digest_file(artifact)
            self._refuse_another(digest)
            return _result(self.artifact_uri, digest, ONNX_RUNTIME, wrapped=False)
        archive = source / self.model_uri.rpartition("/")[2]
        storage.download(self.model_uri, archive)
        bundle = folder / "bundle"
        manifest = wrap_artifact(archive, artifact, bundle, self._request(artifact.name))
        storage.upload(bundle, self.output_uri)
        self.log.info("Bundle for %s at %s", manifest.runtime, self.output_uri)
        return _result(self.output_uri, digest_file(bundle), manifest.runtime, wrapped=True)

    def _refuse_another(self, digest: str) -> None:
        # Of our own bundles only: nobody says what Neo's digest is taken over.
        if self.artifact_digest and digest != self.artifact_digest.lower():
            raise DeliveryRefusedError(
                f"{self.artifact_uri} has the digest {digest}, its job made "
                f"{self.artifact_digest}: another job wrote to the same place since; compile each "
                "to a place of its own (output_uri), and compile again"
            )

    def _request(self, artifact: str) -> Any:
        from model_delivery_engine.compile import CompilationRequest
        from model_delivery_engine.targets import describe_target

        device, platform = self.target_device, self.target_platform
        return CompilationRequest(
            framework=self.framework,
            data_input_config=neo.data_input_config(self.data_input_config, self.framework, device),
            target=describe_target(device or None, platform or None),
            name=self.model_name or artifact.removesuffix(neo.ARCHIVE_ENDING),
            source_uri=self.model_uri,
            compiler_options=neo.compiler_options(self.compiler_options, device, platform),
        )


def _result(uri: str, digest: str, runtime: str, *, wrapped: bool) -> BundledModel:
    return {
        "version": VERSION,
        "output_uri": uri,
        "digest": digest,
        "runtime": runtime,
        "wrapped": wrapped,
    }
