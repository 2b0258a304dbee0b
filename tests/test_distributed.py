# SPDX-License-Identifier: Apache-2.0
"""What two processes with half of the images each find is what one process with all of them finds.

Both run the same functions, which are told which share of the images is theirs.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import distributed, multiprocessing
from torch.testing import assert_close
from torch.utils.data import DistributedSampler
from torchvision.tv_tensors import Mask

from anomalib_vqflow.checkpoint import CheckpointMixin
from anomalib_vqflow.data.samplers import GroupedBatchSampler
from anomalib_vqflow.distributed import SyncedBatchNorm1d, SyncedBatchNorm2d, follow_first_, rows_of_all_processes
from anomalib_vqflow.flows.whitening import Moments
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.quantization.codebook import MAX_CANDIDATES

from . import process
from .tiny import tiny_model, tiny_torch_model

ROOT = Path(__file__).resolve().parents[1]

MODEL = SimpleNamespace(hparams={"num_concepts": 3})


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gathered_rows(mine):
    return {"shared": rows_of_all_processes(draw(7, 2)[mine])}


def decision_of_the_first(mine):
    decision = draw(3) if mine.start == 0 else torch.zeros(3, dtype=torch.float64)
    follow_first_(decision)
    return {"shared": decision}


def learning_codebook(mine):
    """Twelve batches of 9 images of clusters that come later and later; in some, cells of an image are broken."""
    torch.manual_seed(0)
    codebook = Codebook(6, 3, novelty=0.1, decay=0.7, dead_below=0.3).double()
    indices, gradients, commitments = [], [], []
    for step in range(12):
        centers = draw(6, 3, seed=1)[torch.arange(9 * 4) % (1 + step // 2)]
        batch = (5 * centers + 0.1 * draw(36, 3, seed=2 + step)).view(9, 4, 3)
        if step % 3 == 2:
            batch[step // 2, 1:3] = torch.nan
        x = batch[mine].requires_grad_()
        found = codebook(x)
        indices.append(found.indices.T)
        if step % 3 != 2:
            found.commitment.backward()
            gradients.append(x.grad * len(x))
            commitments.append(found.commitment.detach() * len(x))
    return {
        "shared": [codebook.state_dict(), codebook.usage],
        "dealt": [torch.cat(indices).T, *gradients],
        "summed": commitments,
    }


def codebook_of_many_vectors(mine):
    """More vectors than are considered for reinitialization: which ones are is left to chance, in each process."""
    torch.manual_seed(0)
    codebook = Codebook(4, 2, novelty=0.0).double()
    codebook(10 * draw(4, 2)[torch.arange(2 * MAX_CANDIDATES) % 4].view(4, -1, 2)[mine])
    return {"shared": [codebook.codes.sort(dim=0).values, codebook.code_counts]}


def moments(mine):
    """The second process has broken vectors only in one case, and none in another."""
    found = []
    for count in (7, 2, 1):
        x = draw(count, 3)
        x[1 : count % 7] = torch.nan  # the second of two
        level = Moments(3)
        level.add_(x[mine])
        level.add_other_processes_(torch.device("cpu"))
        found += [*level.mean_and_covariance(), torch.tensor(level.count)]
    return {"shared": found}


def normalized_batches(mine):
    """In training and after it, with uneven shares, of which the smallest has one vector."""
    dealt, shared, summed = [], [], []
    for norm, shape in ((SyncedBatchNorm1d(4), (3, 4)), (SyncedBatchNorm2d(4), (5, 4, 2, 3))):
        norm.double()
        torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(0))
        for step in range(3):
            x = draw(*shape, seed=step)[mine].requires_grad_()
            y = norm(x)
            (y * draw(*shape, seed=9)[mine]).sum().backward()
            dealt += [y.detach(), x.grad]
        shared.append(norm.state_dict())
        summed += [norm.weight.grad, norm.bias.grad]
        dealt.append(norm.eval()(x).detach())
    return {"dealt": dealt, "shared": shared, "summed": summed}


def level_statistics(mine):
    """What the scores of five images are held against, level by level."""
    generator = tiny_torch_model(score_map="likelihood").anomaly_map_generator.double()
    for step in range(3):
        latents = [draw(5, 8, size, size, seed=step)[mine] for size in (8, 4, 2)]
        log_dets = [draw(5, size, size, seed=step + 9)[mine] for size in (8, 4, 2)]
        generator.observe_(latents, log_dets)
    return {"shared": generator.state_dict()}


def fitted_whitening(mine):
    """Six images span few directions, and all others are turned as rounding decides, without effect on the product."""
    torch.manual_seed(0)
    model = tiny_torch_model(use_whitening=True).double()
    model.fit_whitening_([model.see(draw(6, 3, 64, 64)[mine])])
    return {
        "shared": [[level.mean, level.log_det_per_cell, level.weight.T @ level.weight] for level in model.whitenings]
    }


def trained_and_fitted_model(mine):
    """A step and the calibration of the whole model on six images."""
    torch.manual_seed(0)
    model = tiny_torch_model().double()
    images = draw(6, 3, 64, 64)[mine]
    output = model(images)
    sum(z.square().mean() for z in output.latents).backward()
    gradients = {name: p.grad / 6 * len(images) for name, p in model.named_parameters() if p.requires_grad}
    concepts = model.eval().fit_calibration_([model.see(images)])
    return {"shared": model.state_dict(), "summed": gradients, "dealt": [concepts, model(images).pred_score.detach()]}


def thresholds(mine):
    """All anomalies are in the share of the first of two processes."""
    labels = torch.tensor([1, 0] * 4 + [0] * 6)
    scores, maps = draw(14).float() + 9 * labels, draw(14, 8, 8).float() + 9 * labels.view(-1, 1, 1)
    masks = Mask((labels.view(-1, 1, 1) == 1).expand(14, 8, 8))
    found = []
    for rate in (None, 0.1):
        post = SeparatingPostProcessor(false_alarm_rate=rate)
        for rows in torch.arange(14)[mine].split(3):
            batch = ImageBatch(image=torch.zeros(len(rows), 3, 8, 8), pred_score=scores[rows], gt_label=labels[rows])
            batch.update(anomaly_map=maps[rows], gt_mask=masks[rows])
            batch.concept = rows % 3
            post.on_validation_batch_end(None, MODEL, batch)
        post.on_validation_epoch_end(None, MODEL)
        found.append({name: value.sort(dim=0).values if value.ndim else value for name, value in post.named_buffers()})
    return {"shared": found}


CASES = [
    gathered_rows,
    decision_of_the_first,
    learning_codebook,
    codebook_of_many_vectors,
    moments,
    normalized_batches,
    level_statistics,
    fitted_whitening,
    trained_and_fitted_model,
    thresholds,
]


def run_cases(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {case.__name__: case(slice(rank, None, 2)) for case in CASES}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes found, by case."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(run_cases, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_two_processes_find_what_one_does(processes, case):
    """What they share is equal in both to the last bit, and all is that of one process up to rounding."""
    alone, (first, second) = case(slice(0, None, 1)), (found[case.__name__] for found in processes)

    assert_close(first["shared"], second["shared"], rtol=0, atol=0, equal_nan=True)
    assert_close(first["shared"], alone["shared"], rtol=1e-8, atol=1e-9)
    for rank, found in enumerate((first, second)):
        mine = [value[rank::2] for value in alone.get("dealt", [])]
        assert_close(found.get("dealt", []), mine, rtol=1e-8, atol=1e-9)
    for name, total in dict(_numbered(alone.get("summed", []))).items():
        parts = [dict(_numbered(found["summed"]))[name] for found in (first, second)]
        assert_close(sum(parts), total, rtol=1e-8, atol=1e-9)


def _numbered(values):
    return values.items() if isinstance(values, dict) else enumerate(values)


def test_the_cases_tell_something():
    """Without the first process, the second would find something else, or nothing."""
    for case in CASES:
        with pytest.raises((AssertionError, ValueError)):
            assert_close(case(slice(1, None, 2))["shared"], case(slice(0, None, 1))["shared"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, DDPStrategy])
def test_strategies_that_split_weights_are_refused(monkeypatch, strategy):
    """Codebooks are moved in place, outside of the optimizer, so that every process must have all of them."""
    model = tiny_model()
    monkeypatch.setattr(type(model), "trainer", SimpleNamespace(strategy=object.__new__(strategy), precision="32-true"))
    if strategy is DDPStrategy:
        model.setup("test")
        return
    with pytest.raises(ValueError, match=rf"cannot run under {strategy.__name__}.*use strategy 'ddp'"):
        model.setup("test")


def test_processes_draw_noise_of_their_own(monkeypatch):
    """The first one draws what a single process does; Lightning seeds all others like it, at every start."""
    model, draws = tiny_model(), []
    for rank, step in ((0, 0), (1, 0), (2, 0), (1, 7)):
        monkeypatch.setattr(type(model), "trainer", SimpleNamespace(global_rank=rank, global_step=step))
        torch.manual_seed(0)
        CheckpointMixin.on_train_start(model)
        draws.append(torch.rand(()).item())

    assert len(set(draws)) == 4
    assert draws[0] == torch.rand((), generator=torch.Generator().manual_seed(0)).item()


def test_fewer_images_than_processes_are_not_evaluated():
    """A process without any would leave the others waiting."""
    few = DistributedSampler(range(2), num_replicas=3, rank=2, shuffle=False)
    with pytest.raises(ValueError, match="2 images are too few to evaluate in 3 processes"):
        GroupedBatchSampler(few, batch_size=2, groups=[0, 0])

    none = DistributedSampler(range(0), num_replicas=3, rank=2, shuffle=False)
    assert not list(GroupedBatchSampler(none, batch_size=2, groups=[]))


def run_processes(folder, *cases):
    """Make trainings in two processes that ``torchrun`` starts, and give what each found, by case."""
    folder.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.process", folder, *cases],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return found_in(folder)


def found_in(folder):
    names = {file.stem[:-2] for file in folder.glob("*_[01].pt")}
    return {name: [torch.load(folder / f"{name}_{rank}.pt") for rank in range(2)] for name in names}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """What one process finds and what each of two finds, by case; one of them goes on where the others were."""
    folder = tmp_path_factory.mktemp("trainings")
    process.make_data(folder / "data")
    alone = {case: process.train(case, folder / "one", folder / "data", devices=1) for case in process.CASES}
    together = run_processes(folder / "two", *process.CASES, f"plain={folder / 'one' / 'plain.ckpt'}")
    again = process.train(
        "plain", folder / "again", folder / "data", devices=1, resume_from=folder / "two" / "plain.ckpt"
    )
    return {**alone, "plain_resumed": again}, together, folder


def assert_same_training(found, expected, rtol=1e-4, atol=1e-6):
    """Losses, codes, thresholds and all else are equal up to rounding; metrics, but for pixels on the edge of a bin."""
    assert_close(found["metrics"], expected["metrics"], rtol=0, atol=1e-4, equal_nan=True)
    assert_close({**found, "metrics": 0}, {**expected, "metrics": 0}, rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("case", process.CASES)
def test_a_training_of_two_processes_is_that_of_one(trainings, case):
    """After twenty steps and more with noise left out, in double precision, which shows what is more than rounding."""
    alone, together, _ = trainings

    assert alone[case]["steps"] >= 20
    assert len(alone[case]["indices"][1].unique()) > 1  # of the finest level
    assert_close(together[case][0], together[case][1], rtol=0, atol=0, equal_nan=True)
    assert_same_training(together[case][0], alone[case])
    assert alone[case]["metrics"][-1, :2].tolist() == [10, 9]  # each image once


@pytest.mark.slow
def test_a_checkpoint_resumes_in_another_number_of_processes(trainings):
    """Begun in one process and finished in two, or the other way round, a training ends as it would have.

    Up to single precision, in which Lightning restores weights before it makes them double.
    """
    alone, together, _ = trainings
    expected, half = alone["plain"], len(alone["plain"]["losses"]) // 2

    for resumed in (*together["plain_resumed"], alone["plain_resumed"]):
        assert len(resumed["losses"]) == half
        assert_same_training(resumed, {**expected, "losses": expected["losses"][half:]}, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_processes_that_slurm_started_train_together(trainings):
    """The environment that ``srun`` gives its tasks is enough."""
    alone, _, folder = trainings
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0", "JOB_ID": "7", "JOB_NAME": "training"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
    own = folder / "slurm"
    own.mkdir()
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.process", own, "plain"],
            cwd=ROOT,
            env={**environment, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=(own / f"{rank}.txt").open("w"),
        )
        for rank in range(2)
    ]

    assert [task.wait(timeout=300) for task in tasks] == [0, 0], (own / "0.txt").read_text()[-5000:]
    for found in found_in(own)["plain"]:
        assert_same_training(found, alone["plain"])
