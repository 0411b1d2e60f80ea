"""Adapters on one shared frozen base: equal to the whole network that takes them up, kept as files of their own, trained by all methods."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

from backtrail.conditions import Captions, Condition
from backtrail.data.dataset import Labelled
from backtrail.denoiser import Guided
from backtrail.errors import UserError
from backtrail.methods.disback.distillation import distil, target_of
from backtrail.methods.disback.one_step import initial_student
from backtrail.methods.disback.path import DegradationPath, Origin, load_path, node_file, save_path
from backtrail.methods.disback.recording import record
from backtrail.methods.sfd import distillation as sfd
from backtrail.methods.sfd.trajectories import Pool
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.discrete_time import DiffusersDenoiser, DiffusersTeacher
from backtrail.nets.lora import Adapted, load_adapter, merged_state, save_adapter, with_adapter
from backtrail.parameters.base import validate
from backtrail.parameters.discrete_time import STABLE_DIFFUSION
from backtrail.parameters.lora import Lora
from backtrail.parameters.score_distillation import ScoreDistillation
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.sampling.sample import Sampler, sample
from backtrail.tensors import load_tensors, save_tensors, tensors_digest
from unit.latent_pipelines import SDXL, unet
from unit.oracles import tiny_denoiser

pytest.importorskip("peft")
torch.set_num_threads(1)
SHAPE, ADAM = (4, 8, 8), {"lr": 1e-3}
DMD2 = [  # the layers that the code of DMD2 adapts
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"),
    *("downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]
LORA = Lora(rank=3, alpha=6.0, targets=DMD2)


def captions(n: int, seed: int) -> Condition:
    random = torch.Generator().manual_seed(seed)
    return Condition(
        tokens=torch.randn(n, 5, 40, generator=random),
        pooled=torch.randn(n, 12, generator=random),
        time_ids=torch.randint(1, 20, (n, 6), generator=random).float(),
    )


ZEROS = Condition(tokens=torch.zeros(1, 5, 40), pooled=torch.zeros(1, 12))
EMPTY = replace(captions(1, 9), time_ids=None)


@pytest.fixture
def teacher() -> DiffusersDenoiser:
    net = unet(**SDXL)
    p = DiffusersTeacher(kind="UNet2DConditionModel", unet={**SDXL}, **STABLE_DIFFUSION.model_dump())
    made = DiffusersDenoiser(net, p).eval().requires_grad_(False)
    made.configuration, made.told = p, Captions(captions(6, 1), captions(5, 2), ZEROS)
    return made


def estimate(denoiser, n: int = 3) -> torch.Tensor:
    x = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return denoiser(x, torch.tensor([0.3, 2.0, 9.0][:n]), captions(n, 3))


def stirred(denoiser: Adapted, seed: int = 5) -> Adapted:
    """Adapters that do something, and are trained no more: torch takes other kernels for weights that want a gradient."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in denoiser.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=random))
    return denoiser.requires_grad_(False)


def test_new_adapters_change_nothing_and_share_every_tensor_of_the_base(teacher):
    before = tensors_digest(teacher.state_dict())
    made = with_adapter(teacher, LORA, 0, "a")
    assert torch.equal(estimate(made), estimate(teacher)) and isinstance(made, DiffusersDenoiser)
    base = {id(value) for value in teacher.parameters()}
    own, whole = {id(value) for value in made.parameters()}, {id(value) for value in made.net.parameters()}
    assert whole == base | own and not base & own and own
    assert made.configuration == teacher.configuration and made.conditions is teacher.conditions
    stirred(made).requires_grad_(True)
    assert not any(value.requires_grad for value in teacher.parameters()) and tensors_digest(teacher.state_dict()) == before
    other = stirred(copy.deepcopy(made), 6)
    assert not any(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))
    assert {id(value) for value in other.net.parameters()} & {id(value) for value in made.net.parameters()} == base


def test_the_draw_of_new_adapters_is_a_function_of_seed_and_purpose(teacher):
    digests = [tensors_digest(with_adapter(teacher, LORA, *place).state_dict()) for place in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert digests[0] == digests[1] and len({*digests}) == 3


@pytest.mark.parametrize("targets", [DMD2, None, ["to_q", "conv1"]])
def test_adapters_of_a_rank_are_a_change_of_that_rank_which_the_whole_network_takes_up(teacher, targets, tmp_path):
    made = stirred(with_adapter(teacher, Lora(rank=2, alpha=3.0, targets=targets), 0, "a"))
    whole, plain = merged_state(made), teacher.state_dict()
    changed = {name for name in plain if not torch.equal(whole[name], plain[name])}
    assert whole.keys() == plain.keys() and changed == {n.split(".lora_A")[0] + ".weight" for n in made.state_dict() if ".lora_A" in n}
    for name in changed:
        difference = (whole[name] - plain[name]).double().flatten(1) if "conv" not in name else None
        assert difference is None or torch.linalg.matrix_rank(difference, rtol=1e-4) == min(2, *difference.shape)
    save_denoiser(tmp_path / "student.safetensors", made, cost=1)
    merged = load_denoiser(tmp_path / "student.safetensors")
    assert not isinstance(merged, Adapted) and merged.configuration == teacher.configuration
    torch.testing.assert_close(estimate(merged), estimate(made), rtol=1e-4, atol=1e-4)
    assert (estimate(made) - estimate(teacher)).abs().max() > 1e-2
    if targets == ["to_q", "conv1"]:
        assert all(name.endswith(("to_q.weight", "conv1.weight")) for name in changed)


def test_a_built_in_network_is_adapted_too(tmp_path):
    base = tiny_denoiser(n_classes=3)
    made = stirred(with_adapter(base, Lora(rank=2, alpha=2.0), 0, "a"))
    save_denoiser(tmp_path / "student.safetensors", made)
    x, told = torch.randn(2, 1, 4, 4), Condition(labels=torch.tensor([0, 2]))
    ours, merged = made(x, torch.tensor(1.0), told), load_denoiser(tmp_path / "student.safetensors")(x, torch.tensor(1.0), told)
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, base(x, torch.tensor(1.0), told), rtol=1e-2)


def test_adapters_are_a_file_of_their_own_for_one_base_alone(teacher, tmp_path):
    made, file = stirred(with_adapter(teacher, LORA, 0, "a")), tmp_path / "node.safetensors"
    save_adapter(file, made, teacher, node=1)
    again = load_adapter(file, teacher)
    assert torch.equal(estimate(again), estimate(made)) and not torch.equal(estimate(again), estimate(teacher))
    assert again.state_dict().keys() == made.state_dict().keys() == load_tensors(file)[0].keys()
    save_denoiser(tmp_path / "whole.safetensors", teacher)
    assert load_adapter(tmp_path / "whole.safetensors", teacher) is None
    with pytest.raises(UserError, match="holds no denoiser"):
        load_denoiser(file)
    other = copy.deepcopy(teacher)
    next(other.parameters()).add_(1e-3)
    with pytest.raises(UserError, match="holds adapters of the network"):
        load_adapter(file, other)
    tensors, metadata = load_tensors(file)
    fewer = dict(list(tensors.items())[1:])
    save_tensors(file, fewer, metadata)
    with pytest.raises(UserError, match=r"does not fit the network that it is for .missing keys"):
        load_adapter(file, teacher)
    with pytest.raises(RuntimeError, match="no adapters of this network: missing keys"):
        made.load_state_dict(fewer)


def test_layers_that_are_not_there_are_named(teacher):
    with pytest.raises(UserError, match=r"lora.targets = \['to_z'\] name no layer"):
        with_adapter(teacher, Lora(rank=1, alpha=1.0, targets=["to_z"]), 0, "a")


# --- methods ----------------------------------------------------------------------------------------------------------------------------

RECORDING = {"steps": 4, "nodes": 2, "spacing": "every", "optimiser": ADAM, "evaluation_batch": 4, "lora": LORA.model_dump()}


def score(**changes) -> ScoreDistillation:
    base = {"updates": 3, "batch": 2, "student": ADAM, "fake": ADAM, "evaluate_every": 1, "sigma_init": {"t": 399}, "weighting": "dmd"}
    laws = {"noise_fake": {"kind": "discrete"}, "noise_student": {"kind": "discrete"}}
    return validate(ScoreDistillation, base | laws | changes, "method")


@pytest.mark.parametrize("null", [EMPTY, pytest.param(ZEROS, marks=pytest.mark.slow)], ids=["empty", "zeros"])
def test_disback_by_adapters(teacher, null, tmp_path):
    teacher.told = replace(teacher.told, null=null)
    p, data = score(recording=RECORDING, teacher_guidance=8.0), Labelled(torch.randn(6, *SHAPE), torch.arange(6))
    path, notes = record(Origin(teacher), p, data, 0)
    assert [isinstance(node, Adapted) for node in path.nodes] == [False, True, True]
    assert path.table["loss_student"].iloc[-1] < path.table["loss_student"].iloc[0]

    save_path(tmp_path, path, notes)
    sizes = [node_file(tmp_path, k).stat().st_size for k in range(3)]
    assert sizes[1] == sizes[2] < sizes[0]
    loaded = load_path(tmp_path)
    for own, again in zip(path.nodes, loaded.nodes, strict=True):
        assert torch.equal(estimate(own), estimate(again))
    assert all((estimate(node) - estimate(teacher)).abs().max() > 1e-3 for node in path.nodes[1:])
    for net in (node.net for node in loaded.nodes[1:]):  # one base for all
        assert {id(value) for value in loaded.teacher.parameters()} < {id(value) for value in net.parameters()}

    loaded.teacher.told = teacher.told
    for node in loaded.nodes:
        node.told = teacher.told
    before = tensors_digest(loaded.teacher.state_dict())
    state = distil(loaded, p, 0, lambda student: 0.0)
    assert state.rows[-1]["node"] == 0 and tensors_digest(loaded.teacher.state_dict()) == before == tensors_digest(teacher.state_dict())
    last = target_of(loaded, 0, p)
    assert isinstance(last, Guided) and last.denoiser is loaded.teacher and torch.equal(estimate(last.denoiser), estimate(teacher))
    for name in ("student", "fake"):
        module = state.modules[name]
        assert isinstance(module, Adapted) and {id(v) for v in loaded.teacher.parameters()} < {id(v) for v in module.net.parameters()}
        assert (estimate(module) - estimate(teacher)).abs().max() > 1e-4
        assert all(value.grad is None for value in loaded.teacher.parameters())


def test_a_path_of_one_node_and_sfd_train_adapters_too(teacher):
    path = DegradationPath([teacher], pd.DataFrame([{"step": 0, "loss_student": 1.0, "loss_data": 1.0}]))
    state = distil(path, score(lora=LORA.model_dump(), recording=None, teacher_guidance=3.0), 0, lambda student: 0.0)
    assert all(isinstance(module, Adapted) for module in state.modules.values())
    settings = {"rounds": 1, "pool": 1, "batch": 2, "num_steps": [3], "optimiser": ADAM, "cached": False, "lora": LORA.model_dump()}
    schedule = {"kind": "discrete", "t_min": 0.1, "t_max": 14.6146412, "rho": 1.0}
    p = validate(TrajectoryDistillation, settings | {"schedule": schedule}, "method")
    student = sfd.distil(Pool(teacher, p), 0, lambda student: 0.0).modules["student"]
    assert isinstance(student, Adapted) and (estimate(student) - estimate(teacher)).abs().max() > 1e-4


def test_where_adapters_are_asked_for_twice_or_beside_new_layers_is_refused():
    with pytest.raises(UserError, match=r"with a recording it is recording\.lora"):
        score(recording=RECORDING, lora=LORA.model_dump())
    with pytest.raises(UserError, match="lora and step_condition do not go together"):
        values = {"rounds": 1, "pool": 1, "optimiser": ADAM, "step_condition": "zero", "lora": LORA.model_dump()}
        validate(TrajectoryDistillation, values, "method")


def test_an_image_of_an_adapted_student_is_the_same_for_every_range_that_holds_it(teacher):
    made = stirred(with_adapter(teacher, LORA, 0, "a"))
    for sampler in (Sampler(sigma_init=teacher.sigmas[399].item()), Sampler("euler", 3, guidance=7.5)):
        whole = sample(made, sampler, range(6), SHAPE, made.conditions)
        assert torch.equal(sample(made, sampler, range(4, 5), SHAPE, made.conditions), whole[4:5])


def test_recomputed_blocks_give_the_same_gradients_and_keep_less(teacher):
    """By the library's own switch; adapted networks have their own modules, so that a pass that is made again meets its own adapters."""
    gradients, kept = [], []
    for recomputed in (False, True):
        made, other = (stirred(with_adapter(teacher, LORA, 0, "a"), seed).requires_grad_(True) for seed in (5, 6))
        if recomputed:
            made.net.enable_gradient_checkpointing()
        bytes_kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, of=bytes_kept: of.append(x.nbytes) or x, lambda x: x):
            loss = made(torch.ones(2, *SHAPE), torch.tensor([1.0, 4.0]), captions(2, 3)).square().sum()
        other(torch.ones(1, *SHAPE), torch.tensor([1.0]), captions(1, 3)).sum().backward()
        loss.backward()
        gradients.append([value.grad for value in made.parameters()])
        kept.append(sum(bytes_kept))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())
    assert kept[1] < 0.5 * kept[0]


# --- full size, without memory ----------------------------------------------------------------------------------------------------------

STABLE_DIFFUSION_15 = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "cross_attention_dim": 768,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
SDXL_BASE = {
    "sample_size": 128, "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "attention_head_dim": [5, 10, 20],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2, "cross_attention_dim": 2048,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@pytest.mark.parametrize(
    ("described", "n_weights", "n_adapters", "n_layers", "gib"),
    [(STABLE_DIFFUSION_15, 859_520_964, 67.25, None, 3.6), (SDXL_BASE, 2_567_463_684, 196.75, 788, 10.6)],
    ids=["sd15", "sdxl"],
)
def test_the_published_networks_have_their_number_of_weights_and_of_adapters(described, n_weights, n_adapters, n_layers, gib):
    """Adapters in millions, of rank 64 on the layers that DMD2 adapts; GiB of DisBack's student and fake score on one base in bfloat16."""
    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(described)
        p = DiffusersTeacher(kind="UNet2DConditionModel", unet=described, **STABLE_DIFFUSION.model_dump())
        whole = DiffusersDenoiser(net, p)
        adapted = with_adapter(whole, Lora(rank=64, alpha=8.0, targets=DMD2), 0, "a")
    assert sum(value.numel() for value in whole.parameters()) == n_weights
    adapters = [value.numel() for value in adapted.parameters()]
    assert round(sum(adapters) / 1e6, 2) == n_adapters and n_layers in (None, len(adapters) // 2)
    assert round((2 * 16 * sum(adapters) + 2 * n_weights) / 2**30, 1) == gib  # weights, gradients and Adam's two means in float32


def test_a_student_from_random_weights_is_told_what_the_teacher_is(teacher):
    student = initial_student(teacher, "random", 3)
    assert student.told is teacher.told and student.configuration == teacher.configuration
    assert not torch.equal(next(student.parameters()), next(teacher.parameters()))
