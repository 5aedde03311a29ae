"""Real models of other frameworks, made by the frameworks themselves in their own environments.

`python framework_models.py NAME FOLDER` runs inside an environment of the engine's and writes the
files that the tests pack.
"""

import sys
from pathlib import Path
from typing import Any


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

    class Positive(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while bool(x.min() < 0.0):
                x = x - 1.0
            return x * 2.0

    torch.jit.save(torch.jit.script(Positive()), folder / "positive.pt")

    class Repeated(torch.nn.Module):
        def forward(self, x: torch.Tensor, times: int = 3) -> torch.Tensor:
            for _ in range(times):
                x = x * 2.0
            return x

    torch.jit.save(torch.jit.script(Repeated()), folder / "repeated.pt")
    _pytorch_operators(folder)
    _pytorch_inputs(folder)


def _pytorch_operators(folder: Path) -> None:
    """Write operators whose conversion differs on some inputs alone."""
    import torch
    from torch.nn import functional

    for name, function in (
        ("floor", lambda x: torch.floor_divide(x, 0.3)),
        ("floor_whole", lambda x: x.to(torch.int32) // 3),
        ("logsigmoid", lambda x: functional.logsigmoid(x * 10)),
        ("trunc", lambda x: torch.trunc(x)),
        ("angle", lambda x: torch.atan2(x, x.flip(1))),
    ):

        class Operator(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return function(x)  # noqa: B023 - traced before the next one

        example = torch.rand(2, 6)
        torch.jit.save(torch.jit.trace(Operator().eval(), example), folder / f"{name}.pt")

    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    noisy = torch.jit.trace(Noisy().eval(), torch.rand(2, 6), check_trace=False)
    torch.jit.save(noisy, folder / "noisy.pt")


def _pytorch_inputs(folder: Path) -> None:
    """Write models of two inputs that are not to be confused."""
    import torch

    class Apart(torch.nn.Module):
        def forward(self, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
            return alpha * 2.0 - beta * 5.0

    pair = (torch.rand(3, 4), torch.rand(3, 4))
    batch = torch.export.Dim("batch")
    shapes = {"alpha": {0: batch}, "beta": {0: batch}}
    program = torch.export.export(Apart(), pair, dynamic_shapes=shapes)
    torch.export.save(program, folder / "apart.pt2")
    torch.jit.save(torch.jit.script(Apart()), folder / "apart.pt")

    class Nested(torch.nn.Module):
        def forward(
            self, pair: tuple[torch.Tensor, torch.Tensor], *, mask: torch.Tensor
        ) -> torch.Tensor:
            return (pair[0] * 2.0 - pair[1] * 5.0) * mask

    program = torch.export.export(Nested(), (pair,), {"mask": torch.rand(3, 4)})
    torch.export.save(program, folder / "keywords.pt2")

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 16)
            self.dense = torch.nn.Linear(20, 4)

        def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            return self.dense(torch.cat([self.table(ids).mean(1), features], 1))

    torch.manual_seed(0)
    mixed = Mixed().eval()
    torch.jit.save(torch.jit.script(mixed), folder / "mixed.pt")
    example = (torch.zeros(2, 7, dtype=torch.int64), torch.rand(2, 4))
    torch.export.save(torch.export.export(mixed, example), folder / "mixed.pt2")
    _pytorch_types(folder)
    _pytorch_rankers(folder)


def _pytorch_types(folder: Path) -> None:
    """Write models of inputs that are no floats and no wide integers."""
    import torch

    class Masked(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.where(mask, x, -x)

    class Pixels(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.float32) / 255.0

    class Median(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.median(x, 1)[0]

    for name, model in (("masked", Masked()), ("pixels", Pixels()), ("median", Median())):
        torch.jit.save(torch.jit.script(model.eval()), folder / f"{name}.pt")


def _pytorch_rankers(folder: Path) -> None:
    """Write models that answer where their best scores stand, of which many tie."""
    import torch

    class Ranker(torch.nn.Module):
        def __init__(self, tying: Any, shown: bool) -> None:
            super().__init__()
            self.scores = torch.nn.Linear(6, 50)
            self.tying, self.shown = tying, shown

        def forward(self, x: torch.Tensor) -> Any:
            best = torch.topk(self.tying(self.scores(x)), 5)
            return best if self.shown else best.indices

    torch.manual_seed(0)
    for name, tying, shown in (
        ("saturated", torch.sigmoid, True),
        ("places", torch.sigmoid, False),
        ("cut", lambda scores: torch.relu(scores - 1.0), True),
    ):
        ranker = Ranker(tying, shown).eval()
        torch.jit.save(torch.jit.trace(ranker, torch.rand(2, 6)), folder / f"{name}.pt")


def tensorflow(folder: Path) -> None:
    import keras
    import numpy as np
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

    class Words(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def __call__(self, words: Any) -> Any:
            return tf.strings.length(words)

    class Lengths(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="lengths")])
        def __call__(self, lengths: Any) -> Any:
            return lengths * 2.0

    for name, module in (("words", Words()), ("lengths", Lengths())):
        tf.saved_model.save(module, str(folder / name), signatures=module.__call__)

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.nn.softmax(tf.matmul(x, tf.ones([4, 3])), name="y")
    (folder / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with graph.as_default():
        tf.raw_ops.Betainc(a=x, b=x, x=x, name="z")
    (folder / "unsupported.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 10], name="x")
        tf.raw_ops.TopKV2(input=x * 3.0, k=3, sorted=True, name="best")
        tf.constant(1.0, name="left_over")
    (folder / "best.pb").write_bytes(graph.as_graph_def().SerializeToString())

    rows = keras.layers.Input((4,), name="x")
    outputs = [keras.layers.Dense(number % 3 + 1)(rows) for number in range(12)]
    keras.Model(rows, outputs).save(folder / "twelve.keras")
    hidden = keras.layers.Dense(8, activation="gelu")(rows)
    keras.Model(rows, keras.layers.Dense(2)(hidden)).save(folder / "gelu.keras")

    first, second = keras.layers.Input((4,), name="a"), keras.layers.Input((3,), name="b")
    joined = keras.layers.Concatenate()([keras.layers.Dense(3)(second), first])
    scores = {"q": keras.layers.Dense(2)(joined), "p": keras.layers.Dense(3)(joined)}
    keras.Model({"b": second, "a": first}, scores).save(folder / "dictionary.keras")
    pixels = keras.layers.Input((3, 8, 6), name="image")
    hidden = keras.layers.Conv2D(4, 3, data_format="channels_first")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(hidden)
    keras.Model(pixels, keras.layers.Dense(2)(pooled)).save(folder / "channels_first.keras")

    picture = keras.layers.Input((8, 8, 3), name="image")
    turned = keras.layers.RandomRotation(0.2)(keras.layers.RandomFlip()(picture))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(turned))
    keras.Model(picture, keras.layers.Dense(2)(pooled)).save(folder / "augmented.keras")
    _keras_2(folder)
    _trained_by_keras_2(folder / "trained")

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = np.random.default_rng(0).random((20, 1, 8, 8, 3)).astype(np.float32)
    converter.representative_dataset = lambda: ([image] for image in images)
    (folder / "integers.tflite").write_bytes(converter.convert())


def _keras_2(folder: Path) -> None:
    """Write convolutions with the arguments that Keras 2 wrote of them, in a file of its form."""
    import json

    import h5py
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.DepthwiseConv2D(3),
            layers.Conv2DTranspose(4, 3),
            layers.SeparableConv2D(4, 3),
            layers.GlobalAveragePooling2D(),
        ]
    )
    kernel = {"kernel_initializer": None, "kernel_regularizer": None, "kernel_constraint": None}
    for name, groups in (("keras_2.h5", 1), ("grouped.h5", 3)):
        model.save(folder / name)
        with h5py.File(folder / name, "r+") as file:
            written = json.loads(file.attrs["model_config"])
            for layer in written["config"]["layers"]:
                if "Conv" in layer["class_name"]:
                    layer["config"]["groups"] = groups
                if layer["class_name"] == "SeparableConv2D":
                    layer["config"] |= kernel
            file.attrs["model_config"] = json.dumps(written)


def _trained_by_keras_2(folder: Path) -> None:
    """Write a SavedModel with an optimiser's slots, as Keras 2 wrote of what was trained."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    class Trained(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(tf.random.stateless_normal([4, 3], (0, 1)))
            self.moment = tf.Variable(tf.zeros([4, 3]))
            self.optimizer = tf.Module()

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x @ self.weight}

    model = Trained()
    tf.saved_model.save(model, str(folder), signatures=model.__call__)
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    nodes = saved.meta_graphs[0].object_graph_def.nodes
    at = {child.local_name: child.node_id for child in nodes[0].children}
    optimizer = nodes[at["optimizer"]]
    optimizer.user_object.identifier = "optimizer"
    slot = optimizer.slot_variables.add(slot_name="m")
    slot.original_variable_node_id = at["weight"]
    slot.slot_variable_node_id = at["moment"]
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())


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
    # Samples and labels with holes, for the booster that knows them.
    holed = features.copy()
    holed[np.random.default_rng(1).random(holed.shape) < 0.2] = np.nan
    booster = xgb.train({"objective": "reg:squarederror"}, xgb.DMatrix(holed, features[:, 0]), 5)
    booster.save_model(folder / "holed.ubj")
    np.savez(folder / "holed.npz", input=holed, labels=booster.predict(xgb.DMatrix(holed)))
    holed[3, 2] = np.inf
    np.savez(folder / "infinite.npz", input=holed, labels=features[:, 0])
    _xgboost_stopped_early(folder)
    _xgboost_kinds(folder)


def _xgboost_stopped_early(folder: Path) -> None:
    """Write boosters that were trained beyond their best iteration, as each would save them."""
    import numpy as np
    import xgboost as xgb

    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 5)).astype(np.float32)
    noisy = features[:, 0] + rng.normal(size=600) * 2
    for name, params in (
        ("two", {"objective": "binary:logistic"}),
        ("three", {"objective": "multi:softmax", "num_class": 3, "num_parallel_tree": 2}),
        ("dart", {"booster": "dart", "rate_drop": 0.3}),
        ("linear", {"booster": "gblinear"}),
    ):
        labels = np.clip(np.round(noisy) + 1, 0, 2) if name == "three" else noisy > 0
        parts = [xgb.DMatrix(features[s], labels[s]) for s in (slice(400), slice(400, None))]
        booster = xgb.train(
            {"eta": 0.5, "max_depth": 5, **params}, parts[0], 60, [(parts[1], "held")],
            early_stopping_rounds=8, verbose_eval=False,
        )  # fmt: skip
        booster.save_model(folder / f"early_{name}.ubj")
        whole = booster.predict(parts[1])
        stop = booster.best_iteration + 1
        # What XGBClassifier.save_model adds to it.
        booster.set_attr(scikit_learn='{"_estimator_type": "classifier"}')
        booster.save_model(folder / f"early_estimator_{name}.ubj")
        linear = name == "linear"
        best = booster.predict(parts[1], iteration_range=(0, 0 if linear else stop))
        assert linear or not np.allclose(whole, best)
        np.savez(folder / f"early_{name}.npz", x=features[400:], whole=whole, best=best)


def _xgboost_kinds(folder: Path) -> None:
    """Write a booster of each kind and objective, on features far from zero and with holes."""
    import numpy as np
    import xgboost as xgb

    rng = np.random.default_rng(0)
    features = np.c_[rng.integers(0, 1000, (400, 2)), rng.normal(size=(400, 3)) * 50]
    target = features[:, 0] / 100 + (features[:, 3] > 10)
    features[rng.random(features.shape) < 0.1] = np.nan
    positive = target > 6
    for name, params, labels, more in (
        ("rank", {"objective": "rank:pairwise"}, positive, {"group": [200, 200]}),
        ("cox", {"objective": "survival:cox"}, target + 1, {}),
        ("logistic", {"objective": "reg:logistic"}, target / 12, {}),
        ("hinge", {"objective": "binary:hinge"}, positive, {}),
        ("raw", {"objective": "binary:logitraw"}, positive, {}),
        ("quantile", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}, target, {}),
        ("poisson", {"objective": "count:poisson"}, np.round(target), {}),
        ("tweedie", {"objective": "reg:tweedie"}, target, {}),
        ("both", {"objective": "reg:squarederror"}, np.c_[target, -target], {}),
        ("vector", {"objective": "reg:squarederror", "multi_strategy": "multi_output_tree"},
         np.c_[target, -target], {}),
        ("truths", {"objective": "binary:logistic"}, np.c_[positive, ~positive], {}),
        ("dart", {"booster": "dart", "rate_drop": 0.3}, target, {}),
        ("linear", {"booster": "gblinear"}, target, {}),
        ("forest", {"num_parallel_tree": 3, "subsample": 0.5}, target, {}),
    ):  # fmt: skip
        matrix = xgb.DMatrix(features, labels, **more)
        xgb.train({"max_depth": 4, **params}, matrix, 6).save_model(folder / f"{name}.ubj")
    frame = xgb.DMatrix(
        rng.integers(0, 5, (400, 2)).astype(np.float32), target, feature_types=["c", "c"],
        enable_categorical=True,
    )  # fmt: skip
    xgb.train({"max_cat_to_onehot": 1}, frame, 3).save_model(folder / "categories.ubj")


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
    _sklearn_kinds(folder)


def _sklearn_kinds(folder: Path) -> None:
    """Write one estimator of each kind, fitted on doubles of any magnitude."""
    import numpy as np
    import skops.io
    from sklearn import ensemble, linear_model, svm, tree
    from sklearn.cluster import KMeans
    from sklearn.impute import KNNImputer, SimpleImputer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features = np.c_[rng.integers(0, 1000, (400, 3)), rng.normal(size=(400, 2)) * 50]
    labels = (features[:, 0] > 500) + 1 * (features[:, 3] > 10)
    target = features[:, 0] * 2 + features[:, 4]
    scaled = [StandardScaler()]
    members = [
        ("a", make_pipeline(*scaled, linear_model.LogisticRegression())),
        ("b", tree.DecisionTreeClassifier(random_state=0)),
    ]
    for name, model, wanted in (
        ("mlp", make_pipeline(*scaled, MLPClassifier((8,), max_iter=50)), labels),
        ("mlp_regressor",
         make_pipeline(*scaled, MLPRegressor(hidden_layer_sizes=(8,), max_iter=50)), target),
        ("histogram", ensemble.HistGradientBoostingClassifier(max_iter=10), labels),
        ("histogram_of_counts",
         ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=10), abs(target)),
        ("histogram_regressor", ensemble.HistGradientBoostingRegressor(max_iter=10), target),
        ("boosting", ensemble.GradientBoostingRegressor(n_estimators=10), target),
        ("clusters", KMeans(4, n_init=1, random_state=0), None),
        ("outliers", ensemble.IsolationForest(n_estimators=10, random_state=0), None),
        ("vectors", svm.SVC(), labels),
        ("neighbours", make_pipeline(*scaled, KNeighborsClassifier()), labels),
        ("names", make_pipeline(*scaled, linear_model.LogisticRegression()),
         np.array(["cat", "dog", "eel"])[labels]),
        ("holes", make_pipeline(SimpleImputer(), linear_model.Ridge()), target),
        ("margins", make_pipeline(*scaled, svm.LinearSVC()), labels),
        ("forest_of_many", ensemble.RandomForestClassifier(20, random_state=0), labels),
        ("one_each", OneVsRestClassifier(linear_model.LogisticRegression()), labels),
        ("voters", ensemble.VotingClassifier(members, voting="soft"), labels),
        ("stack", ensemble.StackingClassifier(members), labels),
        ("two_targets", ensemble.RandomForestRegressor(5, random_state=0), np.c_[target, -target]),
        ("perceptron_of_two_labels",
         make_pipeline(*scaled, MLPClassifier((8,), max_iter=50)), np.c_[labels > 0, labels > 1]),
        ("two_labels", ensemble.RandomForestClassifier(5, random_state=0),
         np.c_[labels, labels > 0]),
        ("two_classifiers", MultiOutputClassifier(linear_model.LogisticRegression()),
         np.c_[labels, labels > 0]),
    ):  # fmt: skip
        skops.io.dump(model.fit(features, wanted), folder / f"{name}.skops")
    _sklearn_decisions(folder, features, labels > 0)
    _sklearn_tables(folder)
    kinds = np.c_[features[:, :4], rng.integers(0, 4, 400)]
    histogram = ensemble.HistGradientBoostingClassifier(max_iter=5, categorical_features=[4])
    skops.io.dump(histogram.fit(kinds, labels), folder / "kinds.skops")
    holed = np.where(rng.random(features.shape) < 0.3, np.nan, features)
    forest = ensemble.RandomForestClassifier(20, random_state=0).fit(holed, labels)
    skops.io.dump(forest, folder / "learnt_holes.skops")
    neighbours = make_pipeline(KNNImputer(), linear_model.Ridge()).fit(holed, target)
    skops.io.dump(neighbours, folder / "holes_of_neighbours.skops")
    packed = make_pipeline(*scaled, ensemble.ExtraTreesRegressor(5, random_state=0))
    skops.io.dump(packed.fit(holed, target), folder / "learnt_holes_in_a_pipeline.skops")
    # Seconds since 1970 need eleven digits, single precision has seven.
    times = np.c_[1.7e9 + rng.integers(0, 3000, 400), rng.random(400)]
    model = linear_model.LinearRegression().fit(times, times[:, 0] - 1.7e9)
    skops.io.dump(model, folder / "times.skops")
    np.savez(folder / "times.npz", input=times, labels=model.predict(times))


def _sklearn_tables(folder: Path) -> None:
    """Write what tables are learnt with: encoders of categories, columns by name, searches."""
    import numpy as np
    import skops.io
    from sklearn.compose import ColumnTransformer, make_column_selector
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, KFold, RandomizedSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    rng = np.random.default_rng(0)
    kinds = np.c_[rng.integers(2, 7, 400), rng.integers(100, 104, 400)].astype(float)
    table = np.c_[rng.normal(size=(400, 2)), kinds]
    labels = ((kinds[:, 0] > 4) ^ (table[:, 0] > 0)).astype(int)
    texts = np.array(["a", "b"], object)[labels]

    def encoded(encoder: Any, last: Any) -> Any:
        columns = [("kinds", encoder, [2, 3])]
        return make_pipeline(ColumnTransformer(columns, remainder="passthrough"), last)

    named = ColumnTransformer([("one", StandardScaler(), [3, 0]), ("all", "passthrough", [1, 2])])
    scored = LogisticRegression().fit(named.fit_transform(table), labels)
    # What a data frame leaves: the columns' names, and their order.
    named.feature_names_in_ = np.array(["age", "income", "kind", "place"], object)
    named.transformers_ = [
        (name, step, named.feature_names_in_[columns].tolist())
        for name, step, columns in named.transformers_
    ]
    skops.io.dump(make_pipeline(named, scored), folder / "named_columns.skops")
    # What chose them stays beside them.
    selected = make_column_selector(dtype_include=float)
    named.transformers = [(name, step, selected) for name, step, _ in named.transformers]
    skops.io.dump(make_pipeline(named, scored), folder / "selected_columns.skops")
    masked = ColumnTransformer(
        [("some", StandardScaler(), [True, False, False, True])], remainder="passthrough"
    )
    masked = make_pipeline(masked, LogisticRegression()).fit(table, labels)
    skops.io.dump(masked, folder / "masked_columns.skops")
    scores = {"C": [0.1, 1.0]}
    forest = RandomForestClassifier(5, random_state=0)
    for name, model in (
        ("one_hot", encoded(OneHotEncoder(), LogisticRegression())),
        ("one_hot_of_some",
         encoded(make_pipeline(SimpleImputer(), OneHotEncoder(handle_unknown="ignore")),
                 LogisticRegression())),
        ("ordinal", encoded(OrdinalEncoder(), forest)),
        ("imputed_ordinal",
         encoded(make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()), forest)),
        ("search", GridSearchCV(LogisticRegression(), scores, scoring="accuracy")),
        ("search_in_a_pipeline",
         make_pipeline(StandardScaler(), GridSearchCV(LogisticRegression(), scores))),
        ("search_of_pipelines",
         RandomizedSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1, 2]},
                            n_iter=2, cv=KFold(3), random_state=0)),
        ("own_search", GridSearchCV(LogisticRegression(), scores, scoring=own_score)),
    ):  # fmt: skip
        skops.io.dump(model.fit(table, labels), folder / f"{name}.skops")
    words = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(texts[:, None], labels)
    skops.io.dump(words, folder / "words.skops")


def own_score(model: Any, features: Any, labels: Any) -> float:
    """Return the share that is right, by a function that is none of scikit-learn's."""
    return float((model.predict(features) == labels).mean())


def _sklearn_decisions(folder: Path, features: Any, labels: Any) -> None:
    """Write classifiers of two classes that answer one decision, and the decisions."""
    import numpy as np
    import skops.io
    from sklearn import linear_model, svm
    from sklearn.discriminant_analysis import (
        LinearDiscriminantAnalysis,
        QuadraticDiscriminantAnalysis,
    )
    from sklearn.multiclass import OneVsOneClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    answers = {}
    for name, model in (
        ("vectors", svm.SVC()),
        ("few_vectors", svm.NuSVC(nu=0.3)),
        ("margins", svm.LinearSVC()),
        ("descent", linear_model.SGDClassifier(random_state=0)),
        ("perceptron", linear_model.Perceptron(random_state=0)),
        ("aggressive", linear_model.PassiveAggressiveClassifier(random_state=0)),
        ("ridge", linear_model.RidgeClassifier()),
        ("one_to_one", OneVsOneClassifier(linear_model.LogisticRegression())),
    ):
        whole = make_pipeline(StandardScaler(), model).fit(features, labels.astype(int))
        skops.io.dump(whole, folder / f"two_{name}.skops")
        answers[name] = whole.decision_function(features)
    for count in (2, 3):
        classes = np.digitize(features[:, 3], [0, 40][: count - 1])
        for name, analysis in (
            ("linear", LinearDiscriminantAnalysis()),
            ("quadratic", QuadraticDiscriminantAnalysis()),
        ):
            analysed = make_pipeline(StandardScaler(), analysis).fit(features, classes)
            skops.io.dump(analysed, folder / f"{name}_analysis_{count}.skops")
    np.savez(folder / "decisions.npz", input=features.astype(np.float32), **answers)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
