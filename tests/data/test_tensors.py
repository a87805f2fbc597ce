"""Tensors against plain numpy, one row and one class at a time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from d3tune.data.dataset import GZSLDataset, ProtocolView
from d3tune.data.scaling import fit_scaler
from d3tune.data.tensors import class_semantics, load_tensors
from d3tune.errors import UsageError


@pytest.fixture(params=["validation", "test"])
def view(request: pytest.FixtureRequest, dataset: GZSLDataset) -> ProtocolView:
    features = dataset.features.copy()
    features[:, 2] = 4.0  # constant over every row
    features[dataset.trainval, 3] = 1.5  # constant over the training rows only
    return replace(dataset, features=features).view(request.param)


def slow_scaled(view: ProtocolView, rows: Any, scaling: str) -> Any:
    train = np.array([view.dataset.features[row] for row in view.train_rows], dtype=np.float64)
    result = np.array([view.dataset.features[row] for row in rows], dtype=np.float64)
    for column in range(train.shape[1]):
        values = train[:, column]
        if scaling == "none":
            continue
        if values.min() == values.max():
            result[:, column] = 0
        elif scaling == "minmax":
            result[:, column] = (result[:, column] - values.min()) / (values.max() - values.min())
        else:
            result[:, column] = (result[:, column] - values.mean()) / values.std()
    return result


@pytest.mark.parametrize("scaling", ["minmax", "standard", "none"])
def test_features_match_slow_numpy(view: ProtocolView, scaling: Any) -> None:
    tensors = load_tensors(view, scaling=scaling)
    parts = ((tensors.train_x, view.train_rows), (tensors.eval_seen_x, view.eval_seen_rows))
    for values, rows in (*parts, (tensors.eval_unseen_x, view.eval_unseen_rows)):
        assert values.dtype == torch.float32
        np.testing.assert_allclose(values.numpy(), slow_scaled(view, rows, scaling), atol=2e-6)


def test_minmax_fills_zero_to_one_on_training_rows_and_is_not_clipped_beyond(dataset: GZSLDataset) -> None:
    features = dataset.features.copy()
    features[dataset.test_unseen] = 9.0
    view = replace(dataset, features=features).view("test")
    tensors = load_tensors(view)
    assert float(tensors.train_x.min()) == 0.0
    assert float(tensors.train_x.max()) == 1.0
    assert float(tensors.eval_unseen_x.min()) > 1.0


def test_a_near_constant_feature_is_not_blown_up(dataset: GZSLDataset) -> None:
    features = dataset.features.copy()
    features[:, 0] *= 1e-9
    features[dataset.test_unseen, 0] = 1.0
    view = replace(dataset, features=features).view("test")
    assert float(load_tensors(view, scaling="standard").eval_unseen_x.abs().max()) < 1e5


def test_labels_are_local_ids_seen_first(view: ProtocolView) -> None:
    tensors = load_tensors(view)
    order = [*view.seen_classes.tolist(), *view.unseen_classes.tolist()]
    assert tensors.class_ids.tolist() == order
    assert (tensors.n_seen, tensors.n_unseen) == (len(view.seen_classes), len(view.unseen_classes))
    assert tensors.n_classes == len(order)
    assert tensors.n_features == view.dataset.n_features
    for labels, rows in (
        (tensors.train_y, view.train_rows),
        (tensors.eval_seen_y, view.eval_seen_rows),
        (tensors.eval_unseen_y, view.eval_unseen_rows),
    ):
        assert labels.dtype == torch.int64
        assert labels.tolist() == [order.index(int(view.dataset.labels[row])) for row in rows]
    assert int(tensors.train_y.max()) < tensors.n_seen <= int(tensors.eval_unseen_y.min())


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_semantics_match_slow_numpy(view: ProtocolView, center: bool, scale: float) -> None:
    tensors = load_tensors(view, center_semantics=center, semantics_scale=scale)
    mean = sum(view.dataset.semantics[c].astype(float) for c in view.seen_classes) / len(view.seen_classes)
    for local, class_id in enumerate(tensors.class_ids.tolist()):
        vector = view.dataset.semantics[class_id].astype(float) - (mean if center else 0)
        np.testing.assert_allclose(tensors.semantics[local], scale * vector / np.linalg.norm(vector), atol=1e-6)
    assert tensors.semantics.dtype == torch.float32


def test_a_class_at_the_seen_mean_has_zero_semantics(dataset: GZSLDataset) -> None:
    semantics = np.ones_like(dataset.semantics)
    assert not class_semantics(replace(dataset, semantics=semantics).view("test"), center=True).any()


def test_the_scaler_scales_later_rows_alike(view: ProtocolView) -> None:
    tensors = load_tensors(view, scaling="standard")
    scaler = fit_scaler(view, "standard")
    later = scaler.apply(view.dataset.features[view.eval_unseen_rows].copy())
    np.testing.assert_array_equal(later, tensors.eval_unseen_x.numpy())


def test_tensors_can_be_written_without_touching_the_dataset(view: ProtocolView) -> None:
    view.dataset.features.flags.writeable = False
    before = view.dataset.features.copy()
    load_tensors(view, scaling="none").train_x.zero_()
    np.testing.assert_array_equal(view.dataset.features, before)


def test_wrong_settings_are_one_line(view: ProtocolView) -> None:
    with pytest.raises(UsageError, match="unknown scaling 'max'; known: minmax, standard, none"):
        load_tensors(view, scaling="max")  # type: ignore[arg-type]
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="semantics_scale"):
            load_tensors(view, semantics_scale=scale)
