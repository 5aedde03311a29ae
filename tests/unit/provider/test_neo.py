"""Neo's rules, held against a request before any call: what is refused, and in whose words."""

import json
from typing import Any

import pytest
from model_delivery import neo
from model_delivery.exceptions import InvalidRequestError
from model_delivery.operators.compilation import CreateCompilationJobOperator

ROLE = "arn:aws:iam::000000000000:role/compiler"
IMAGE = '{"data": [1, 3, 224, 224]}'


@pytest.fixture
def request_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build the request of an operator; its connection leads nowhere, so a call would fail."""
    extra = {"region_name": "eu-west-1", "endpoint_url": "http://127.0.0.1:9"}
    connection = {"conn_type": "aws", "login": "AKIANOBODY", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))

    def build(**changes: Any) -> dict[str, Any]:
        given = {
            "role_arn": ROLE,
            "model_uri": "s3://bucket/model.tar.gz",
            "framework": "ONNX",
            "data_input_config": IMAGE,
            "output_uri": "s3://bucket/out",
            "target_device": "ml_c5",
            **changes,
        }
        operator = CreateCompilationJobOperator(task_id="compile", **given)
        return operator.build_request()

    return build


def test_every_field_of_the_api_goes_into_the_request(request_of: Any) -> None:
    request = request_of(
        framework="PYTORCH",
        framework_version="2.1",
        data_input_config=[[1, 3, 224, 224]],
        output_kms_key_id="alias/models",
        target_device=None,
        target_platform={"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"},
        compiler_options={"gpu-code": "sm_72", "trt-ver": "6.0.1", "cuda-ver": "10.1"},
        security_group_ids=["sg-1"],
        subnets=["subnet-1"],
        max_runtime_seconds=900,
        max_wait_seconds=1800,
        max_pending_seconds=7200,
        tags={"team": "digits"},
    )
    assert request == {
        "RoleArn": ROLE,
        "InputConfig": {
            "S3Uri": "s3://bucket/model.tar.gz",
            "DataInputConfig": "[[1, 3, 224, 224]]",
            "Framework": "PYTORCH",
            "FrameworkVersion": "2.1",
        },
        "OutputConfig": {
            "S3OutputLocation": "s3://bucket/out",
            "TargetPlatform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"},
            "CompilerOptions": '{"gpu-code": "sm_72", "trt-ver": "6.0.1", "cuda-ver": "10.1"}',
            "KmsKeyId": "alias/models",
        },
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "StoppingCondition": {
            "MaxRuntimeInSeconds": 900,
            "MaxWaitTimeInSeconds": 1800,
            "MaxPendingTimeInSeconds": 7200,
        },
        "Tags": [{"Key": "team", "Value": "digits"}],
    }
    package = "arn:aws:sagemaker:eu-west-1:000000000000:model-package/digits/1"
    bare = request_of(
        model_uri=None, framework=None, data_input_config=None, model_package_version_arn=package
    )
    assert bare["ModelPackageVersionArn"] == package
    assert "InputConfig" not in bare
    assert "VpcConfig" not in bare


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data_input_config": "not json"}, "is not JSON"),
        ({"data_input_config": '{"data": [1, NaN]}'}, "is not JSON .JSON has no NaN"),
        ({"data_input_config": {"data": object()}}, "data_input_config .* has no form in JSON"),
        ({"data_input_config": "[[1, 3]]"}, "ONNX takes a dictionary"),
        ({"data_input_config": "7"}, "ONNX takes a dictionary"),
        ({"data_input_config": {"data": 3}}, "not a shape"),
        ({"data_input_config": {"data": [1, 0]}}, "0 at position 1"),
        ({"data_input_config": {"data": [1, -1]}}, "-1 at position 1"),
        ({"data_input_config": {"data": [1, "1..10"]}}, "'data' has \"1..10\" at position 1"),
        (
            {"framework": "TENSORFLOW", "data_input_config": [[1, 3]]},
            "TENSORFLOW takes a dictionary of input name to shape in NHWC",
        ),
        (
            {"framework": "KERAS", "data_input_config": 7},
            "KERAS takes a dictionary .* in NCHW, .* though the model itself is saved in NHWC",
        ),
        ({"framework": "PYTORCH", "data_input_config": 7}, "or a list of the shapes in order"),
        ({"framework": "XGBOOST"}, "XGBOOST needs no input name and shape"),
        ({"framework": "CAFFE"}, "InputConfig.Framework is 'CAFFE', which is none of TENSORFLOW"),
        ({"framework": None}, "framework is needed"),
        ({"framework_version": "1.8"}, "ONNX has no versions"),
        ({"framework": "PYTORCH", "framework_version": "two"}, "does not match"),
        ({"model_uri": "s3://bucket/model.zip"}, r"not an s3:// URI of a \.tar\.gz archive"),
        ({"model_uri": "https://bucket/model.tar.gz"}, "not an s3:// URI"),
        ({"model_uri": None}, "model_uri or model_package_version_arn, and not both"),
        ({"model_package_version_arn": "arn:x"}, "model_uri or model_package_version_arn"),
        ({"output_uri": "/tmp"}, "must begin with s3://"),
        ({"target_device": None}, "target_device or target_platform, and not both"),
        ({"target_platform": {"Os": "LINUX", "Arch": "ARM64"}}, "and not both"),
        ({"target_device": "toaster"}, "OutputConfig.TargetDevice is 'toaster'"),
        (
            {"target_device": None, "target_platform": {"Os": "LINUX"}},
            'Missing required parameter in OutputConfig.TargetPlatform: "Arch"',
        ),
        (
            {"target_device": None, "target_platform": {"OS": "LINUX", "Arch": "ARM64"}},
            "target_platform has 'OS'",
        ),
        (
            {
                "target_device": None,
                "target_platform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"},
            },
            "NVIDIA needs",
        ),
        ({"compiler_options": "--verbose"}, "compiler_options '--verbose' is not JSON"),
        ({"compiler_options": "[]"}, "it is a JSON object"),
        ({"compiler_options": {"values": 16000}}, "values is 16000, not an object of values"),
        ({"compiler_options": {"values": {}}}, "not an object of values by input"),
        ({"compiler_options": '{"values": {"sr": "x"}}'}, "values gives 'sr' \"x\"; give a number"),
        ({"compiler_options": {"dtype": object()}}, "compiler_options .* has no form in JSON"),
        ({"compiler_options": {"bound": float("nan")}}, "compiler_options .* has no form in JSON"),
        ({"compiler_options": '{"bound": NaN}'}, "is not JSON .JSON has no NaN"),
        ({"compiler_options": {"x": "y" * 1100}}, "CompilerOptions has a length of 1109"),
        ({"max_runtime_seconds": 0}, "1 to 2419200"),
        ({"max_runtime_seconds": 2_419_201}, "28 days"),
        ({"max_runtime_seconds": 60, "max_wait_seconds": 59}, "at least max_runtime_seconds"),
        ({"max_pending_seconds": 60}, "MaxPendingTimeInSeconds"),
        ({"max_pending_seconds": 2_419_201}, "at most 2419200"),
        ({"subnets": ["subnet-1"]}, "both security_group_ids and subnets"),
        ({"role_arn": "arn:aws:iam::1:user/me-and-nobody"}, "RoleArn .* does not match"),
        ({"tags": {str(n): "" for n in range(51)}}, "Tags has a length of 51"),
        ({"data_input_config": {"d" * 16_400: [1]}}, "DataInputConfig has a length of"),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_call(
    request_of: Any, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        request_of(**changes)


@pytest.mark.parametrize(
    ("framework", "value", "text"),
    [
        ("XGBOOST", None, None),
        ("XGBOOST", "{}", None),
        ("SKLEARN", None, None),
        ("SKLEARN", {"input": [-1, 4]}, '{"input": [-1, 4]}'),
        ("PYTORCH", {"input0": [1, 3]}, '{"input0": [1, 3]}'),
        ("ONNX", '{"b": [1], "a": [1]}', '{"b": [1], "a": [1]}'),
        ("ONNX", {"x": [-1, 4], "rate": []}, '{"x": [-1, 4], "rate": []}'),
    ],
)
def test_the_forms_that_each_framework_takes(framework: str, value: Any, text: str | None) -> None:
    assert neo.data_input_config(value, framework, "ml_c5") == text


@pytest.mark.parametrize("value", [None, "", " ", "{}", {}, []])
def test_shapes_may_be_left_to_the_service_which_is_warned_of(
    request_of: Any, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    """The API requires none, and answers what was derived."""
    request = request_of(framework="TENSORFLOW", data_input_config=value)
    assert "DataInputConfig" not in request["InputConfig"]
    told = capsys.readouterr().out
    assert "left to the service" in told
    assert neo.RULES["TENSORFLOW"] in told
    for framework in ("XGBOOST", "SKLEARN"):
        request_of(framework=framework, data_input_config=value)
    assert "left to the service" not in capsys.readouterr().out


def test_core_ml_has_forms_of_its_own() -> None:
    shape = {"shape": [["1..10", 3, 224, 224]], "default_shape": [1, 3, 224, 224]}
    text = neo.data_input_config([shape], "PYTORCH", "coreml")
    assert json.loads(text or "") == [shape]
    with pytest.raises(InvalidRequestError, match="coreml takes bias"):
        neo.data_input_config({"image": {"shapes": []}}, "TENSORFLOW", "coreml")
    with pytest.raises(InvalidRequestError, match="not a shape"):
        neo.data_input_config({"image": shape}, "TENSORFLOW", "ml_c5")


def test_the_neuron_compiler_takes_its_command_line() -> None:
    text = '"--verbose 1 --num-neuroncores 2 -O2"'
    assert neo.compiler_options(text, "ml_inf1", None) == text
    with pytest.raises(InvalidRequestError, match="JSON object"):
        neo.compiler_options(text, "ml_c5", None)


@pytest.mark.parametrize(
    ("framework", "shape", "doubtful"),
    [
        ("TENSORFLOW", [1, 3, 224, 224], True),
        ("TENSORFLOW", [1, 224, 224, 3], False),
        ("KERAS", [1, 224, 224, 3], True),
        ("ONNX", [1, 224, 224, 3], True),
        ("ONNX", [1, 3, 224, 224], False),
        ("ONNX", [1, 8, 128, 64], False),
        ("ONNX", [1, 4], False),
        ("PYTORCH", [1, 1, 28, 28], False),
    ],
)
def test_a_shape_of_the_other_layout_is_doubted_with_the_rule(
    framework: str, shape: list[int], doubtful: bool
) -> None:
    doubts = neo.doubtful_layouts(json.dumps({"image": shape}), framework)
    assert bool(doubts) is doubtful
    assert all(neo.RULES[framework] in doubt for doubt in doubts)
