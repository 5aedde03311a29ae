"""Read documents with an OCR model, and write the forms that people corrected."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from model_delivery.exceptions import DeliveryRefusedError, InvalidRequestError
from model_delivery.storage_connected import StorageConnected
from model_delivery.xcom import VERSION, CorrectedForms, ReadDocuments

if TYPE_CHECKING:
    from model_delivery.hooks.storage import StorageHook

ENDINGS = (".png", ".jpg", ".jpeg")


class ReadDocumentsOperator(StorageConnected):
    """Reads images of forms into Textract-shaped blocks, as a batch's results.

    Each line of the results has as `input` the document's URI and its path below `documents_uri` as
    `id`, which tells it from one of the same name in another folder, and, as `output`, what
    Textract's AnalyzeDocument answers: Blocks with key-value pairs, their words, boxes and
    confidences. A document that cannot be read becomes an error record.

    :param documents_uri: prefix of the images, PNG or JPEG.
    :param results_uri: where the results are written, JSON Lines.
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "documents_uri", "results_uri",
    )  # fmt: skip

    def __init__(self, *, documents_uri: str, results_uri: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.documents_uri = documents_uri
        self.results_uri = results_uri

    def execute(self, context: Context) -> ReadDocuments:
        """Read one document after the other."""
        storage = self._storage()
        uris = [each.uri for each in storage.list(self.documents_uri)
                if each.uri.lower().endswith(ENDINGS)]  # fmt: skip
        if not uris:
            raise InvalidRequestError(
                f"there is no document below {self.documents_uri}: put images there "
                f"({', '.join(ENDINGS)}), or correct the URI"
            )
        records = list(self._records(storage, uris))
        storage.write_stream(
            self.results_uri, (json.dumps(each).encode() + b"\n" for each in records)
        )
        errors = sum(each["output"] is None for each in records)
        self.log.info("Read %d documents, %d could not be read", len(records), errors)
        return {
            "version": VERSION,
            "output_uri": self.results_uri,
            "documents": len(records),
            "errors": errors,
        }

    def _records(self, storage: "StorageHook", uris: Sequence[str]) -> Iterator[dict[str, Any]]:
        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.review.documents import DocumentReader

        reader = DocumentReader()
        folder = self.documents_uri.rpartition("/")[0] + "/"
        for uri in uris:
            about = {"id": uri.removeprefix(folder), "document": uri}
            try:
                blocks = reader.read(storage.read_bytes(uri))
            except EngineError as error:
                yield {"input": about, "output": None,
                       "error": {"reason": str(error), "uri": uri, "offset": 0}}  # fmt: skip
            else:
                yield {"input": about, "output": blocks, "error": None}


class WriteFormsOperator(StorageConnected):
    """Writes each document's form: what the model read, with what people made of it.

    A line for each document: `document`, `fields` (text by key), `corrected` (keys whose text
    people changed), `undecided` (keys on which they did not agree: the model's text stands, and
    nobody vouches for it) and whether it was `reviewed`.

    :param reviewed_uri: `reviewed.jsonl` of `HumanReviewOperator` over forms.
    :param output_uri: where the forms are written, JSON Lines.
    """

    template_fields: Sequence[str] = (
        *StorageConnected.template_fields, "reviewed_uri", "output_uri",
    )  # fmt: skip

    def __init__(self, *, reviewed_uri: str, output_uri: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reviewed_uri = reviewed_uri
        self.output_uri = output_uri

    def execute(self, context: Context) -> CorrectedForms:
        """Merge, document by document."""
        from model_delivery_engine.batch.lines import read_lines
        from model_delivery_engine.errors import EngineError
        from model_delivery_engine.review.corrected import corrected_form

        storage = self._storage()
        lines = read_lines(storage.read(self.reviewed_uri))
        try:
            forms = [
                corrected_form(record)
                for record in (json.loads(line) for _at, line in lines if line)
                if record["output"] is not None
            ]
        except EngineError as error:
            raise DeliveryRefusedError(f"{self.reviewed_uri}: {error}") from error
        storage.write_stream(
            self.output_uri,
            (json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in forms),
        )
        return {
            "version": VERSION,
            "output_uri": self.output_uri,
            "documents": len(forms),
            "fields": sum(len(each["fields"]) for each in forms),
            "corrected": sum(len(each["corrected"]) for each in forms),
            "undecided": sum(len(each["undecided"]) for each in forms),
        }
