# SPDX-License-Identifier: Apache-2.0
import json
import math
import pickle
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import Folder, ImageBatch, MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import roc_auc_score
from torch import distributed, multiprocessing

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.evaluation.category_evaluator import CategoryEvaluator, category_of_path
from tests.data.folders import make_category
from tests.tiny import tiny_model

NAMES = ["image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"]


class LoudPadim(Padim):
    """Padim whose scores are far outside [0, 1]."""

    def test_step(self, batch, *args, **kwargs):
        batch = super().test_step(batch, *args, **kwargs)
        return batch.update(pred_score=batch.pred_score * 100, anomaly_map=batch.anomaly_map * 100 - 50)


class FailingPadim(Padim):
    """Padim whose test fails at its second batch, if asked to."""

    fails = False

    def test_step(self, batch, batch_idx, *args, **kwargs):
        if self.fails and batch_idx == 1:
            msg = "a failing test"
            raise RuntimeError(msg)
        return super().test_step(batch, batch_idx, *args, **kwargs)


def padim(model_class=Padim, evaluator=None, **arguments):
    torch.manual_seed(0)
    return model_class(
        "resnet18",
        ["layer1"],
        pre_trained=False,
        n_features=8,
        visualizer=False,
        evaluator=evaluator or CategoryEvaluator(),
        pre_processor=Padim.configure_pre_processor((32, 32)),
        **arguments,
    )


def fit_and_test(model, datamodule, folder, **arguments):
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, **{"logger": False, **arguments})
    engine.fit(model, datamodule=datamodule)
    (logged,) = engine.test(model, datamodule=datamodule)
    return engine, logged


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "products"
    make_category(root, "bolt", masks=False, train=6, good=4, defect=5)
    make_category(root, "nut", train=6, good=4, defect=5)
    make_category(root, "plate", good=3, defect=0)
    return root


def test_results_of_all_categories(root, tmp_path):
    """Categories, mean and pool are reported, logged and written; what is not evaluable is no number."""
    model = padim()
    engine, logged = fit_and_test(model, MultiCategory(root, num_workers=0), tmp_path)

    results = model.evaluator.results
    assert list(results.index) == ["bolt", "nut", "plate", "macro", "pooled"]
    counts = [(4, 5), (4, 5), (3, 0), (11, 10), (11, 10)]
    assert [*results[["normal", "anomalous"]].itertuples(index=False, name=None)] == counts
    assert math.isnan(results.loc["plate", "image_AUROC"])
    assert math.isnan(results.loc["bolt", "pixel_AUROC"])
    for metric in ("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO"):
        value = results.loc["nut", metric]
        assert 0 < value <= 1
        assert results.loc["macro", metric] == results.loc["pooled", metric] == value
    assert results.loc["macro", "image_AUROC"] == pytest.approx(results.loc[["bolt", "nut"], "image_AUROC"].mean())
    assert dict(results.loc["pooled", NAMES]) == pytest.approx(logged)
    written = json.loads(Path(engine.trainer.default_root_dir, "category_metrics.json").read_text())
    assert written["nut"]["image_AUROC"] == pytest.approx(results.loc["nut", "image_AUROC"], abs=1e-15)
    assert written["plate"]["image_AUROC"] is None


def test_scores_are_raw_even_where_the_post_processor_clamps(root, tmp_path):
    """AUROC is that of the scores before normalization and clamping, also far outside [0, 1]."""
    datamodule = MultiCategory(root, num_workers=0)
    model = padim(LoudPadim)
    fit_and_test(model, datamodule, tmp_path)

    scores, labels = [], []
    with torch.no_grad():
        for batch in datamodule.test_dataloader():
            raw = model.eval().model(model.pre_processor.transform(batch.image))
            scores += raw.pred_score.flatten().tolist()
            labels += batch.gt_label.tolist()
    assert model.post_processor.image_max < 100, "the test's scores are clamped by the post-processor"
    assert model.evaluator.results.loc["pooled", "image_AUROC"] == pytest.approx(roc_auc_score(labels, scores))


def test_plain_metrics_agree_with_those_of_anomalib(root, tmp_path):
    """For one category, the four usual metrics agree with anomalib's evaluator."""
    datamodule = MultiCategory(root, categories="nut", num_workers=0)
    logged = []
    for evaluator in (CategoryEvaluator(), Padim.configure_evaluator()):
        model = padim(evaluator=evaluator, post_processor=False)
        model.test_step = sigmoid_scores(model)
        logged.append(fit_and_test(model, datamodule, tmp_path)[1])

    assert logged[0]["image_AUROC"] == pytest.approx(logged[1]["image_AUROC"])
    assert logged[0]["pixel_AUROC"] == pytest.approx(logged[1]["pixel_AUROC"], abs=1e-3)
    assert logged[0]["image_F1Score"] == pytest.approx(logged[1]["image_F1Score"])
    assert logged[0]["pixel_F1Score"] == pytest.approx(logged[1]["pixel_F1Score"])


def sigmoid_scores(model):
    def test_step(batch, batch_idx):
        predictions = model.model(batch.image)
        score, anomaly_map = predictions.pred_score / 100, predictions.anomaly_map / 100
        return batch.update(
            pred_score=score.sigmoid(),
            anomaly_map=anomaly_map.sigmoid(),
            pred_label=score > score.median(),
            pred_mask=anomaly_map > anomaly_map.median(),
        )

    return test_step


def test_every_logger_gets_every_number(root, tmp_path):
    """Each of several Lightning loggers gets every evaluable number under its category."""
    loggers = [CSVLogger(tmp_path / name) for name in ("first", "second")]
    fit_and_test(padim(), MultiCategory(root, num_workers=0), tmp_path, logger=loggers)

    for name in ("first", "second"):
        columns = (tmp_path / name / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
        some = {"nut/image_AUROC", "nut/pixel_AUPRO", "macro/image_AP", "pooled/image_F1Max", "image_AUROC"}
        assert some <= {*columns}
        assert "plate/image_AUROC" not in columns
        assert "bolt/pixel_AUROC" not in columns


def test_single_category_datamodules_work(root, tmp_path):
    """anomalib's own datamodules are reported under their category, or as a whole."""
    model = padim()
    _, logged = fit_and_test(model, MVTecAD(root, "nut", num_workers=0), tmp_path)
    assert list(model.evaluator.results.index) == ["nut", "macro", "pooled"]
    assert {*logged} == {*NAMES}

    model = padim()
    folder = Folder("own", "train/good", root / "bolt", abnormal_dir="test/hole", num_workers=0)
    _, logged = fit_and_test(model, folder, tmp_path)
    assert {*logged} == {"image_AUROC", "image_F1Score"}


def test_second_test_forgets_the_first(root, tmp_path):
    """A second test has the results of the first, and leaves no callback behind."""
    model, datamodule = padim(), MultiCategory(root, num_workers=0)
    engine, _ = fit_and_test(model, datamodule, tmp_path)
    first = model.evaluator.results

    engine.test(model, datamodule=datamodule)

    pd.testing.assert_frame_equal(model.evaluator.results, first)
    assert not [callback for callback in engine.trainer.callbacks if isinstance(callback, LambdaCallback)]


def test_test_after_a_failed_one_counts_every_image_once(root, tmp_path):
    """A test that fails leaves nothing that the next one would count."""
    model, datamodule = padim(FailingPadim), MultiCategory(root, num_workers=0, eval_batch_size=4)
    engine, _ = fit_and_test(model, datamodule, tmp_path)
    first = model.evaluator.results

    model.fails = True
    with pytest.raises(RuntimeError, match="a failing test"):
        engine.test(model, datamodule=datamodule)
    model.fails = False
    engine.test(model, datamodule=datamodule)

    pd.testing.assert_frame_equal(model.evaluator.results, first)


def test_aupimo_is_reported_on_request(root, tmp_path):
    """AUPIMO has a column on request, and no number where there are too few pixels."""
    model = padim(evaluator=CategoryEvaluator(aupimo=True))
    fit_and_test(model, MultiCategory(root, num_workers=0), tmp_path)

    assert model.evaluator.results["pixel_AUPIMO"].isna().all(), "the test's images are too small for it"


def test_results_that_cannot_be_written_do_not_end_the_test(root, tmp_path, monkeypatch, caplog):
    """A full disk costs the files, not the test."""

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    _, logged = fit_and_test(padim(), MultiCategory(root, num_workers=0), tmp_path)

    assert "No space left" in caplog.text
    assert "image_AUROC" in logged


def test_nothing_of_it_is_in_checkpoints(root):
    """The evaluator adds nothing to a model's state."""
    assert not [key for key in padim().state_dict() if key.startswith("evaluator")]


def test_works_without_a_trainer():
    """Batches can be evaluated outside of a trainer, and a category called macro is not the mean."""
    evaluator = CategoryEvaluator()
    batch = ImageBatch(
        image=torch.zeros(4, 3, 8, 8),
        image_path=[f"{category}/test/x/{index}.png" for category in ("macro", "nut") for index in range(2)],
        pred_score=torch.tensor([-5.0, 30.0, 7.0, 2.0]),
        gt_label=torch.tensor([0, 1, 1, 0]),
    )

    evaluator.on_test_batch_end(None, None, None, batch, 0)
    results = evaluator.compute()

    assert list(results.index) == ["macro_", "nut", "macro", "pooled"], "a category must not be taken for the mean"
    assert results.loc["macro", "image_AUROC"] == 1.0
    assert math.isnan(results.loc["nut", "image_F1Score"]), "there were no decisions"


def test_maps_alone_give_image_scores_and_nan_is_reported(caplog):
    """Without image scores the maximum of the map counts, and a score of NaN is named."""
    evaluator = CategoryEvaluator()
    maps = torch.zeros(3, 8, 8)
    maps[1, 2, 3], maps[2, 0, 0] = 1.0, float("nan")
    batch = ImageBatch(
        image=torch.zeros(3, 3, 8, 8),
        image_path=["a.png", "b.png", "c.png"],
        anomaly_map=maps,
        gt_label=torch.tensor([0, 1, 0]),
    )

    evaluator.on_test_batch_end(None, None, None, batch, 0)

    assert evaluator.compute().loc["all", "image_AUROC"] == 1.0
    assert "c.png" in caplog.text


@pytest.mark.parametrize(
    ("path", "category"),
    [
        ("/data/bottle/test/good/000.png", "bottle"),
        ("bottle/test/broken/000.png", "bottle"),
        ("good/000.png", None),
        ("/images/abnormal/000.png", None),
        ("", None),
    ],
)
def test_category_of_path(path, category):
    """The category is read from paths in MVTec layout, and from no others."""
    assert category_of_path(path) == category


def batch_of(category, masks, maps, labels):
    return ImageBatch(
        image=torch.zeros(len(labels), 3, 8, 8),
        image_path=[f"{category}/test/x/{index}.png" for index in range(len(labels))],
        anomaly_map=maps,
        gt_mask=masks,
        gt_label=torch.tensor(labels),
    )


def test_pooled_pixels_are_all_whose_masks_are_known():
    """False alarms count in pooled pixels if a category has no anomalies, and do not if its masks are empty."""
    masks, maps = torch.zeros(2, 8, 8, dtype=torch.bool), torch.zeros(2, 8, 8)
    masks[1, :2, :2], maps[1, :2, :2] = True, 0.5
    empty, loud = torch.zeros_like(masks), torch.ones_like(maps)
    pooled = []
    for categories in ([], [("clean", [0, 0])], [("unknown", [0, 1])]):
        evaluator = CategoryEvaluator()
        evaluator.on_test_batch_end(None, None, None, batch_of("nut", masks, maps, [0, 1]), 0)
        for name, labels in categories:
            evaluator.on_test_batch_end(None, None, None, batch_of(name, empty, loud, labels), 0)
        pooled.append(evaluator.compute().loc["pooled", "pixel_AUROC"])

    alone, with_clean, with_unknown = pooled
    assert alone == with_unknown == 1.0
    assert with_clean == pytest.approx(1 - 128 / (128 + 124))


def test_saturated_maps_are_reported():
    """Maps whose values are all equal draw a warning with the error that this may cause; distinct ones do not."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, :2, :2] = True
    for maps, warns in ((torch.ones(2, 8, 8), True), (torch.linspace(0, 1, 128).reshape(2, 8, 8), False)):
        evaluator = CategoryEvaluator()
        evaluator.on_test_batch_end(None, None, None, batch_of("nut", masks, maps, [0, 1]), 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluator.compute()
        assert any("Pixel AUROC of nut may be off by up to 0.500" in str(one.message) for one in caught) == warns


def test_table_says_what_a_dash_means_and_where_the_files_are(root, tmp_path, capsys):
    """After a test, one table, the meaning of its dashes and the paths of the written files are printed."""
    engine, _ = fit_and_test(padim(), MultiCategory(root, num_workers=0), tmp_path)

    printed = capsys.readouterr().out
    folder = Path(engine.trainer.default_root_dir)
    assert printed.count("Results per category") == 1
    assert "\N{EN DASH} not evaluable" in printed
    assert f"Written to {folder / 'category_metrics.csv'} and {folder / 'category_metrics.json'}" in printed


def test_model_from_a_checkpoint_reports_per_category(root, tmp_path):
    """VQ-Flow has this evaluator by default, so that a checkpoint's test reports what the training's test did."""
    datamodule = MultiCategory(root, num_workers=0)
    model = tiny_model(input_size=(32, 32), num_concepts=3)
    engine, _ = fit_and_test(model, datamodule, tmp_path, max_epochs=1)

    restored = VQFlow.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False).test(restored, datamodule=datamodule)

    pd.testing.assert_frame_equal(restored.evaluator.results, model.evaluator.results)


def test_nothing_collected_has_no_results():
    """Without a batch, the results are empty."""
    assert CategoryEvaluator().compute().empty


def test_evaluators_can_be_copied_and_sent_to_processes():
    """An evaluator with scores goes through pickle, as a launcher that spawns processes needs."""
    evaluator = CategoryEvaluator()
    evaluator.on_test_batch_end(None, None, None, random_batch("nut", 0), 0)

    sent = pickle.loads(pickle.dumps(evaluator))

    pd.testing.assert_frame_equal(sent.compute(), evaluator.compute())


def random_batch(category, seed, masks=True, images=4, size=160):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % 2
    mask = torch.zeros(images, size, size, dtype=torch.bool)
    mask[labels == 1, 2:40, 5 : 20 + 20 * seed] = True
    maps = torch.rand(mask.shape, generator=generator) + 0.5 * mask
    return ImageBatch(
        image=torch.zeros(images, 3, 8, 8),
        image_path=[f"{category}/test/x/{index}.png" for index in range(images)],
        pred_score=100 * torch.rand(images, generator=generator) + labels,
        pred_label=torch.rand(images, generator=generator) > 0.5,
        pred_mask=maps > 0.9,
        anomaly_map=maps,
        gt_label=labels,
        gt_mask=mask if masks else None,
    )


def share_of(rank):
    """Return batches of one of two processes: only the second has bolts, only the first disks, without masks."""
    nut = random_batch("nut", rank)
    return [nut, random_batch("bolt", 2)] if rank else [nut, random_batch("disk", 3, masks=False)]


def evaluate(batches):
    evaluator = CategoryEvaluator(aupimo=True)
    for batch in batches:
        evaluator.on_test_batch_end(None, None, None, batch, 0)
    return evaluator.compute()


def evaluate_in_process(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    evaluate(share_of(rank)).to_pickle(folder / f"{rank}.pkl")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_report_what_one_process_reports(tmp_path):
    """Two processes with different categories both report what one process with all images does, bar rounding."""
    multiprocessing.spawn(evaluate_in_process, (tmp_path,), nprocs=2)

    results = [pd.read_pickle(tmp_path / f"{rank}.pkl") for rank in range(2)]
    pd.testing.assert_frame_equal(results[0], results[1], check_exact=True)
    expected = evaluate([*share_of(0), *share_of(1)])
    assert list(expected.index) == ["bolt", "disk", "nut", "macro", "pooled"]
    assert expected.loc["nut"].notna().all()
    assert expected.loc["disk"].isna().any()
    pd.testing.assert_frame_equal(results[0], expected, rtol=0, atol=1e-12)
