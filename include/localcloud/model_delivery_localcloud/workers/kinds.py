"""The kinds of jobs there are, by the name in the jobs table."""

from collections.abc import Mapping

from model_delivery_localcloud.workers.batch_inference import BatchInferenceWork
from model_delivery_localcloud.workers.compilation import CompilationWork
from model_delivery_localcloud.workers.work import Work

WORK: Mapping[str, Work] = {
    "compilation": CompilationWork(),
    "batch-inference": BatchInferenceWork(),
}
