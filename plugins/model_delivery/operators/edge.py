"""Deploy a bundle to a core device and ask the device what it answers."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from model_delivery.aws import AWS_TEMPLATE_FIELDS, AwsConnected
from model_delivery.exceptions import DeliveryError, EdgeError, InvalidRequestError
from model_delivery.jobs.operator import JobOperator
from model_delivery.jobs.service import Handle, JobDescription, JobService
from model_delivery.lineage import Lineage
from model_delivery.links.job import console_url, is_aws
from model_delivery.xcom import (
    VERSION,
    CancelledDeployment,
    ComponentVersionResult,
    DeploymentResult,
    EdgeInferenceResult,
)


class CreateComponentVersionOperator(AwsConnected):
    """Registers a bundle as a Greengrass component version.

    The version is made of the bundle's digest, so the same bundle is the same version: a retry, or
    another run with the same bundle, finds it.

    Source: IoT Greengrass v2 API, CreateComponentVersion; component recipe format 2020-01-25.

    :param component_name: name of the component.
    :param bundle_uri: `s3://` URI of the bundle.
    :param model_name: name under which devices serve it. (default: the component's name)
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "component_name", "bundle_uri", "model_name",
    )  # fmt: skip

    def __init__(
        self, *, component_name: str, bundle_uri: str, model_name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.component_name = component_name
        self.bundle_uri = bundle_uri
        self.model_name = model_name

    @property
    def hook_path(self) -> str:
        """Greengrass."""
        return "model_delivery.hooks.edge.GreengrassV2Hook"

    def execute(self, context: Context) -> ComponentVersionResult:
        """Create the component version, or find it."""
        from model_delivery.hooks.bundle import read_bundle_facts

        if not self.bundle_uri.startswith("s3://"):
            raise InvalidRequestError(
                f"bundle_uri {self.bundle_uri!r} must begin with s3://: Greengrass reads S3 only"
            )
        digest = read_bundle_facts(self.bundle_uri, self.aws_conn_id).digest
        version = _version(digest)
        arn = self._create(self._recipe(version), digest)
        self.log.info("Component %s version %s is %s", self.component_name, version, digest)
        return {
            "version": VERSION,
            "component_arn": arn,
            "component_name": self.component_name,
            "component_version": version,
            "bundle_uri": self.bundle_uri,
            "digest": digest,
        }

    def _recipe(self, version: str) -> dict[str, Any]:
        configuration = {"modelName": self.model_name or self.component_name}
        return {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": self.component_name,
            "ComponentVersion": version,
            "ComponentType": "aws.greengrass.generic",
            "ComponentConfiguration": {"DefaultConfiguration": configuration},
            "Manifests": [{"Platform": {"os": "linux"}, "Artifacts": [{"Uri": self.bundle_uri}]}],
        }

    def _create(self, recipe: Mapping[str, Any], digest: str) -> str:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.hook.conn
        version = recipe["ComponentVersion"]
        try:
            try:
                answer = client.create_component_version(inlineRecipe=json.dumps(recipe).encode())
                return str(answer["arn"])
            except client.exceptions.ConflictException:
                return self._existing(version, digest)
        except (ClientError, BotoCoreError) as error:
            raise DeliveryError(
                f"component {self.component_name} {version} of {self.bundle_uri} was not made: "
                f"{error}"
            ) from error

    def _existing(self, version: str, digest: str) -> str:
        """Return the version that is there already, if it holds this bundle."""
        meta, account = self.hook.conn.meta, self.hook.account_id
        name = f"components:{self.component_name}:versions:{version}"
        arn = f"arn:{meta.partition}:greengrass:{meta.region_name}:{account}:{name}"
        recipe = json.loads(
            self.hook.conn.get_component(arn=arn, recipeOutputFormat="JSON")["recipe"]
        )
        digests = [
            base64.b64decode(artifact["Digest"]).hex()
            for manifest in recipe["Manifests"]
            for artifact in manifest["Artifacts"]
        ]
        if digests != [digest.removeprefix("sha256:")]:
            raise InvalidRequestError(
                f"{arn} exists with another artifact ({', '.join(digests)}) than {self.bundle_uri} "
                f"({digest}): give the bundle another component_name"
            )
        return arn


def _version(digest: str) -> str:
    """Return a semantic version made of 60 bits of the digest: equal bundles, equal versions."""
    number = digest.removeprefix("sha256:")
    return ".".join(str(int(number[at : at + 5], 16)) for at in (0, 5, 10))


class CreateDeploymentOperator(JobOperator):
    """Deploys component versions to one core device and waits for the device's own word.

    Done means that the device verified the bundle, reproduced its golden outputs and serves it.

    Source: IoT Greengrass v2 API, CreateDeployment.

    :param thing_name: name of the core device.
    :param components: component version by component name.
    :param component_versions: more components, as `CreateComponentVersionOperator` returns them.
    :param account_id: AWS account of the device; the connection's own by default.
    """

    template_fields: Sequence[str] = (
        *AWS_TEMPLATE_FIELDS, "thing_name", "components", "component_versions", "account_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        thing_name: str,
        components: Mapping[str, str] | None = None,
        component_versions: Sequence[Mapping[str, Any]] = (),
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.thing_name = thing_name
        self.components = components or {}
        self.component_versions = component_versions
        self.account_id = account_id

    @property
    def service(self) -> JobService:
        """Deployments."""
        from model_delivery.hooks.edge import Deployments

        return Deployments()

    def build_request(self) -> dict[str, Any]:
        """Return CreateDeployment's request without the name."""
        made = {
            each["component_name"]: each["component_version"] for each in self.component_versions
        }
        components = {**self.components, **made}
        if not self.thing_name or not components:
            raise InvalidRequestError("give a thing_name, and at least one component")
        account = self.account_id or self.client.patiently(
            lambda: self.hook.account_id, {"name": f"to {self.thing_name}"}
        )
        meta = self.hook.conn.meta
        place = f"arn:{meta.partition}:iot:{meta.region_name}:{account}"
        return {
            "targetArn": f"{place}:thing/{self.thing_name}",
            "components": {
                name: {"componentVersion": version} for name, version in components.items()
            },
        }

    def page_url(self, handle: Handle) -> str:
        """Return the deployment's page in the AWS console, or localcloud's devices."""
        meta = self.client.meta
        endpoint, region = meta.endpoint_url, meta.region_name
        if is_aws(endpoint):
            console = console_url(endpoint, region, "iot")
            return f"{console}#/greengrass/v2/deployments/{handle['id']}"
        return f"{endpoint}/devices"

    def lineage(self) -> Lineage:
        """Bundles in; what a device runs is no dataset."""
        bundles = [each["bundle_uri"] for each in self.component_versions]
        return Lineage(bundles, job_id=self.ended.handle["id"])

    def identity(self, handle: Handle) -> dict[str, str]:
        """Deployment id, name and device."""
        return {"job_id": handle["id"], "job_name": handle["name"], "thing_name": handle["thing"]}

    def result(self, description: JobDescription) -> DeploymentResult:
        """Deployment id, name, device and status."""
        return deployment_result(description)


class CancelDeploymentOperator(AwsConnected):
    """Cancels a deployment: devices that are not done with it keep what they have.

    One that has ended already is left as it is. A rollout is ended by its record or its task, which
    cancels its deployments and more.

    Source: IoT Greengrass v2 API, CancelDeployment.

    :param deployment_id: id of a deployment to a thing or a group.
    """

    template_fields: Sequence[str] = (*AWS_TEMPLATE_FIELDS, "deployment_id")

    def __init__(self, *, deployment_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deployment_id = deployment_id

    @property
    def hook_path(self) -> str:
        """Greengrass."""
        return "model_delivery.hooks.edge.GreengrassV2Hook"

    def execute(self, context: Context) -> CancelledDeployment:
        """Look, cancel what is open, and look again."""
        from model_delivery.hooks.edge import Deployments
        from model_delivery.jobs.client import JobClient
        from model_delivery.jobs.faults import STATE_CODES, error_code
        from model_delivery.jobs.service import Call

        if not self.deployment_id:
            raise InvalidRequestError("deployment_id is missing")
        client = JobClient(Deployments(), self.open_hook)
        asked = {"deploymentId": self.deployment_id}

        def ask(operation: str) -> Mapping[str, Any]:
            about = {"name": self.deployment_id}
            return client.patiently(lambda: client.run(Call(operation, asked)), about)

        cancelled = False
        found = ask("get_deployment")
        if found["deploymentStatus"] == "ACTIVE":
            try:
                ask("cancel_deployment")
                cancelled = True
            except Exception as error:  # it ended in this moment
                if error_code(error.__cause__ or error) not in STATE_CODES:
                    raise
            found = ask("get_deployment")
        status = str(found["deploymentStatus"])
        self.log.info("Deployment %s to %s is %s", self.deployment_id, found["targetArn"], status)
        return {
            "version": VERSION,
            "job_id": self.deployment_id,
            "status": status,
            "target_arn": str(found["targetArn"]),
            "cancelled": cancelled,
        }


def deployment_result(description: JobDescription) -> DeploymentResult:
    """Read a description as the XCom of operator and sensor."""
    return {
        "version": VERSION,
        "job_id": description.handle["id"],
        "job_name": description.handle["name"],
        "status": description.status,
        "thing_name": description.handle["thing"],
    }


class EdgeInferenceOperator(BaseOperator):
    """Smoke test: sends records to the device's own API and compares its answers.

    :param results_uri: URI of batch results: the device must give the answers they hold.
    :param input_uri: URI of the records that the results came from.
    :param model_name: model on the device.
    :param digest: bundle digest that the device must be running.
    :param thing_name: name that the device must have; None asks whatever device answers.
    :param limit: records to send. (default: 64)
    :param tolerance: largest absolute difference of a score. (default: 1e-4)
    :param edge_conn_id: connection of type `model_delivery_edge`.
    """

    template_fields: Sequence[str] = (
        "results_uri", "input_uri", "model_name", "digest", "thing_name", "edge_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        results_uri: str,
        input_uri: str,
        model_name: str,
        digest: str,
        thing_name: str | None = None,
        limit: int = 64,
        tolerance: float = 1e-4,
        edge_conn_id: str = "model_delivery_edge_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results_uri = results_uri
        self.input_uri = input_uri
        self.model_name = model_name
        self.digest = digest
        self.thing_name = thing_name
        self.limit = limit
        self.tolerance = tolerance
        self.edge_conn_id = edge_conn_id

    def execute(self, context: Context) -> EdgeInferenceResult:
        """Check the running digest, then every answer."""
        from model_delivery.hooks.edge import EdgeInferenceHook
        from model_delivery.hooks.smoke import compare_with_device

        hook = EdgeInferenceHook(self.edge_conn_id)
        if self.thing_name and (thing := hook.thing_name()) != self.thing_name:
            raise EdgeError(
                f"connection {self.edge_conn_id!r} leads to the device {thing}, not to "
                f"{self.thing_name}: give the connection of {self.thing_name} as edge_conn_id"
            )
        running = hook.metadata(self.model_name).get("digest")
        if running != self.digest:
            raise EdgeError(
                f"the device runs {running}, not {self.digest}: a newer deployment may have "
                "replaced ours; look at the device's page"
            )
        records, agreed = compare_with_device(
            hook, self.model_name, self.input_uri, self.results_uri, self.limit, self.tolerance
        )
        if agreed != records:
            raise EdgeError(
                f"the device answered {records - agreed} of {records} records differently from "
                f"{self.results_uri}: roll back, and compare its toolchain with the bundle's"
            )
        self.log.info("The device runs %s and agreed on %d records", running, records)
        return {
            "version": VERSION,
            "model": self.model_name,
            "digest": str(running),
            "records": records,
            "agreed": agreed,
        }
