"""Real models of other frameworks, made by the frameworks themselves in their own environments.

`python framework_models.py NAME FOLDER` runs inside an environment of the engine's and writes the
files that the tests pack.
"""

import sys
from pathlib import Path


def pytorch(folder: Path) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 4, 3)
            self.dense = torch.nn.Linear(4, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.dense(torch.relu(self.convolution(image)).mean((2, 3)))

    torch.manual_seed(0)
    net, image = Net().eval(), torch.rand(2, 3, 8, 8)
    torch.jit.save(torch.jit.trace(net, image), folder / "traced.pt")
    torch.jit.save(torch.jit.script(net), folder / "scripted.pt")
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(
        torch.export.export(net, (image,), dynamic_shapes=(batch,)), folder / "program.pt2"
    )
    torch.save(net.state_dict(), folder / "state.pt")

    class Endless(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            while bool(image.sum() > -1.0):
                image = image + 1.0
            return image

    torch.jit.save(torch.jit.script(Endless()), folder / "endless.pt")


def tensorflow(folder: Path) -> None:
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    image = keras.layers.Input((8, 8, 3), name="image")
    hidden = keras.layers.Conv2D(4, 3, activation="relu")(image)
    scores = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(hidden))
    model = keras.Model(image, scores)
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.export(folder / "saved", verbose=False)
    lite = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    (folder / "model.tflite").write_bytes(lite)
    with_code = keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(scores))
    with_code.save(folder / "lambda.keras")

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.nn.softmax(tf.matmul(x, tf.ones([4, 3])), name="y")
    (folder / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with graph.as_default():
        tf.raw_ops.Betainc(a=x, b=x, x=x, name="z")
    (folder / "unsupported.pb").write_bytes(graph.as_graph_def().SerializeToString())


def xgboost(folder: Path) -> None:
    import numpy as np
    import xgboost as xgb

    features = np.random.default_rng(0).random((300, 5)).astype(np.float32)
    for name, objective, labels in (
        ("binary", "binary:logistic", features[:, 0] > 0.5),
        ("classes", "multi:softmax", (features[:, 0] * 3).astype(int)),
        ("regression", "reg:squarederror", features[:, 0]),
    ):
        params = {"objective": objective, "max_depth": 3}
        if name == "classes":
            params["num_class"] = 3
        booster = xgb.train(params, xgb.DMatrix(features, labels), 5)
        booster.save_model(folder / f"{name}.ubj")
        booster.save_model(folder / f"{name}.json")


def sklearn(folder: Path) -> None:
    import joblib
    import numpy as np
    import skops.io
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    features = np.random.default_rng(0).random((300, 5)).astype(np.float32)
    labels = (features[:, 0] > 0.5).astype(int)
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0))
    skops.io.dump(forest.fit(features, labels), folder / "forest.skops")
    joblib.dump(forest, folder / "forest.joblib")
    skops.io.dump(LinearRegression().fit(features, features[:, 1]), folder / "linear.skops")
    with_code = make_pipeline(FunctionTransformer(np.square), LinearRegression())
    skops.io.dump(with_code.fit(features, features[:, 1]), folder / "code.skops")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
