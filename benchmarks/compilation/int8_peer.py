"""Quantise a model as OpenVINO's users do, with NNCF: `python int8_peer.py ONNX SAMPLES INTO`.

Its own defaults, on the samples that ours calibrate on. Runs where OpenVINO is; INTO is the `.xml`.
"""

import sys

import nncf
import numpy as np
import openvino


def main() -> None:
    model, samples, into = sys.argv[1:]
    read = openvino.Core().read_model(model)
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    inputs = {each.any_name: each for each in read.inputs}
    count = len(next(iter(arrays.values())))
    rows = [{name: arrays[name][n : n + 1] for name in inputs} for n in range(count)]
    quantised = nncf.quantize(read, nncf.Dataset(rows), subset_size=count)
    openvino.save_model(quantised, into, compress_to_fp16=False)


main()
