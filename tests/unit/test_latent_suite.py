"""Suites of published latent teachers: their parameters, files, captions, protocols, what they would cost; without running a stage."""

import copy
import json
from functools import partial
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from latent_pipelines import LSUN, SD15, XL
from latent_world import TINY_CLIP, write_captions, write_clip, write_photographs
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backtrail.cli import backtrail
from backtrail.cli.latent_plan import PUBLISHED, count, memory
from backtrail.cli.plan import command as plan
from backtrail.conditions import Condition
from backtrail.data import fetch
from backtrail.data.caption_files import captions_of_images, read_captions, training_and_evaluation
from backtrail.data.latent_sources import LATENT_TEACHERS
from backtrail.data.real_images import PATCH, RealImageFile, prepared, prepared_made
from backtrail.data.registry import File, Source
from backtrail.denoiser import Guided
from backtrail.errors import UserError
from backtrail.laid_down import declared_stages, lay_down
from backtrail.methods.disback.offloaded import offloaded
from backtrail.methods.disback.path import DegradationPath
from backtrail.metrics.clip_score import ClipModel, score
from backtrail.metrics.latent_measures import of_count
from backtrail.nets.build import build
from backtrail.nets.lora import _is_target
from backtrail.parameters.latent import Captions, ClipScore, FrechetProtocol, LatentEvaluation, Prompts
from backtrail.parameters.latent_suite import LatentSuite
from backtrail.parameters.net import UNetParameters
from backtrail.parameters.suite import read_suite
from backtrail.randomness import Draw
from backtrail.teachers.latent_texts import encode_texts, load_texts, save_texts, telling
from unit.refusals import as_yaml, sentence_for

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
NAMES = ("sd15", "sdxl", "lsun-bedroom")
VALUES = {name: yaml.safe_load((ROOT / f"suites/{name}/params.yaml").read_text(encoding="utf-8")) for name in NAMES}
SUITES = {name: read_suite(ROOT / f"suites/{name}/params.yaml") for name in NAMES}


# --- parameters -------------------------------------------------------------------------------------------------------------------------


def test_the_suites_say_what_the_papers_do() -> None:
    assert all(isinstance(suite, LatentSuite) for suite in SUITES.values())
    sd, xl, lsun = (SUITES[name] for name in NAMES)
    sfd, disback, lora = sd.trajectory_distillation["sfd-v"], *xl.score_distillation.values()
    assert sfd.num_steps == [4, 5, 6, 7] and sfd.step_condition == "random" and sd.students["sfd-v"].guidance == [7.5]
    assert sd.prompts.null_text == "empty" and sd.prompts.kept == "apart" and sd.latent.asked.start == "sigma"
    for p in (disback, lora):
        assert p.sigma_init.t == 399 and (p.teacher_guidance, p.node_guidance) == (8.0, 1.0) and p.recording.nodes == 10
        assert (p.weighting, p.fake_per_student, p.order, p.batch) == ("dmd", 5, "student-first", 1)
    assert disback.adapters is None and (lora.adapters.rank, lora.adapters.alpha) == (64, 8.0)
    assert xl.prompts.null_text == "zeros" and xl.prompts.time_ids == (1024, 1024, 0, 0, 1024, 1024) and xl.latent.asked.start == "unit"
    assert lsun.prompts is None and lsun.latent.first_stage_scale == 1.0 and lsun.trajectory_distillation["sfd"].schedule.t_min == 0.006


@pytest.mark.parametrize(
    ("suite", "key", "value", "expected"),
    [
        ("sd15", "data.n_floors", 3, ["unknown key data.n_floors", "n_floor"]),
        ("sd15", "latent.source", "teacher-sd14", ["latent.source = 'teacher-sd14'", "'teacher-sd15'"]),
        ("sd15", "prompts.training.file", "../captions.txt", ["prompts.training.file", "pattern"]),
        ("sd15", "data.resolution", 500, ["data.resolution = 500", "multiple of 8"]),
        ("sd15", "students", {"sfd": {}}, ["students must name each method that a section trains, once: sfd-v; found sfd"]),
        ("sd15", "trajectory_distillation.sfd-v.cached", True, ["needs inputs: trajectory and cached: false"]),
        ("sd15", "processes.sharded", True, ["sfd-v.step_condition makes another network than the teacher's: set processes.sharded false"]),
        ("lsun-bedroom", "latent.single_file", "model.ckpt", ["single_file is read for teachers of texts alone"]),
        ("sd15", "latent.single_file", "../model.ckpt", ["latent.single_file", "pattern"]),
        ("sd15", "prompts", None, ["guidance of dpmpp-2m-50, dpmpp-2m, sfd-v needs a teacher of texts"]),
        ("sdxl", "data.n_latents", 0, ["data.n_latents must be at least 1 where a path is recorded"]),
        ("sdxl", "prompts.time_ids", [1024, 1024], ["prompts.time_ids"]),
        ("sdxl", "evaluation.clip", [VALUES["sdxl"]["evaluation"]["clip"][0]] * 2, ["two protocols would have the name clip"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, suite: str, key: str, value: object, expected: list[str]) -> None:
    sentence = partial(sentence_for, VALUES[suite])(tmp_path, key, value)
    assert all(part in sentence for part in expected) and "\n" not in sentence, sentence


def test_a_protocol_has_a_name_of_its_own() -> None:
    named = {
        "fid_30k": ("whole", "tensorflow", 30000), "fid_5k": ("whole", "tensorflow", 5000), "fid_4": ("whole", "tensorflow", 4),
        "fid_30k_crop_256_clean": ("crop-256", "clean", 30000), "patch_fid_10k_clean": ("patch", "clean", 10000),
    }  # fmt: skip
    for name, (images, resize, n) in named.items():
        assert FrechetProtocol(images=images, resize=resize, n_images=n).name == name
    both = [SUITES[name].evaluation.clip[0].name for name in ("sd15", "sdxl")]
    assert both == [
        "clip_score_vit_g_14_laion2b_s34b_b88k_caption_x100",
        "clip_score_vit_g_14_laion2b_s12b_b42k_a_photo_depicts_x1_crop_256",
    ]
    assert SUITES["sd15"].evaluation.n_images == 30000
    assert of_count(SUITES["sd15"].evaluation, 500).names == ["fid_500", "fid_500_crop_256_clean"]


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_laid_down_with_the_pipeline_of_its_kind(name: str) -> None:
    stages = {stage.name for stage in declared_stages(ROOT / "suites" / name)}
    students = {f"latent-samples@{method}-0" for method in SUITES[name].students}
    assert students | {"latent-fetch", "latent-reference", "latent-teacher-samples", "latent-table", "latent-figures", "ledger"} <= stages
    assert {f"latent-path@{method}-0" for method in SUITES[name].score_distillation} <= stages


# --- files ------------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_downloaded_before_the_licence_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(as_yaml(VALUES["sd15"]), encoding="utf-8")
    lay_down(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "download", lambda *arguments: pytest.fail("a download"))
    backtrail(["code"], standalone_mode=False)
    with pytest.raises(UserError, match=r"licence 'CreativeML OpenRAIL-M': read it at https://.*accept_licence.*nothing was downloaded"):
        backtrail(["latent-fetch"], standalone_mode=False)
    assert not Path("data/teacher").exists()


def test_a_file_of_a_pipeline_is_fetched_into_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "download", lambda address, partial, *rest: partial.write_text(address, encoding="utf-8"))
    file = File(name="unet/config.json", addresses=("https://example.org/unet/config.json",))
    source = Source(name="x", purpose="", files=(file,), licence="", date="", homepage="")
    fetch.fetch(source, tmp_path / "teacher")
    assert (tmp_path / "teacher/unet/config.json").read_text(encoding="utf-8") == file.addresses[0]
    digests = {file.name: file.sha256 for file in LATENT_TEACHERS["teacher-sdxl"].files}
    assert digests["text_encoder_2/model.safetensors"].startswith("3a6032f6") and digests["tokenizer_2/merges.txt"].startswith("9fd691f7")


def test_captions_of_evaluation_are_taken_out_of_those_of_training(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "val2014.zip", 4)
    write_captions(tmp_path, names)
    p = Prompts.model_validate(VALUES["sd15"]["prompts"] | {"training": {"file": "captions_train2014.json", "count": 2}})
    training, evaluation = training_and_evaluation(tmp_path, p)
    assert training == ["a dog number 0", "a dog number 1"] and len(evaluation) == 4 and evaluation[0] == evaluation[3]
    same, again = training_and_evaluation(tmp_path, p.model_copy(update={"kept": "same"}))
    assert same == evaluation[:3] and again == evaluation
    assert captions_of_images(tmp_path / "captions_train2014.json", names[:2]) == ["a photo of two cats", "a dog number 0"]
    with pytest.raises(UserError, match=r"has no caption of other\.jpg"):
        captions_of_images(tmp_path / "captions_train2014.json", ["other.jpg"])
    (tmp_path / "captions_train2014.json").write_text(json.dumps({"images": []}), encoding="utf-8")
    with pytest.raises(UserError, match="none of COCO's annotations"):
        training_and_evaluation(tmp_path, p)


def test_photographs_are_prepared_as_a_protocol_says(tmp_path: Path) -> None:
    names = write_photographs(tmp_path / "photos.zip", 5)
    images = RealImageFile(tmp_path / "photos.zip")
    assert len(images) == 5 and [images.name(i) for i in range(5)] == names and images[1].mode == "RGB"
    (batch,) = images.batches("whole", 16, 3, 8)
    assert batch.shape == (3, 3, 16, 16) and batch.dtype == np.uint8
    pixels = np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8)
    wide = Image.fromarray(pixels)
    assert np.array_equal(prepared(wide, "patch", 0), pixels[50:349, 100:399].transpose(2, 0, 1))
    assert np.array_equal(prepared(wide, "whole", 400), pixels[:, 50:450].transpose(2, 0, 1))
    theirs = np.asarray(wide.crop((50, 0, 450, 400)).resize((256, 256), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.array_equal(prepared(wide, "crop-256", 0), theirs)
    assert prepared(wide.resize((40, 30)), "patch", 0).shape == (3, PATCH, PATCH)
    made = pixels[:, :400].transpose(2, 0, 1)[None]
    assert prepared_made(made, "whole") is made and np.array_equal(
        prepared_made(made, "patch")[0], pixels[50:349, 50:349].transpose(2, 0, 1)
    )


# --- texts ------------------------------------------------------------------------------------------------------------------------------


class Lengths:
    """A text encoder that says of a caption how long it is."""

    def __call__(self, captions) -> Condition:
        tokens = torch.tensor([[[float(len(caption))] * 2] * 3 for caption in captions])
        return Condition(tokens=tokens, pooled=tokens[:, 0, :1] / 2)

    def null(self, zeros: bool) -> Condition:
        return Condition(tokens=torch.zeros(1, 3, 2), pooled=torch.zeros(1, 1)) if zeros else self([""])


@pytest.mark.parametrize("apart", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_a_line_of_a_file_of_captions_ends_where_an_editor_shows_its_end(tmp_path: Path, apart: str) -> None:
    (tmp_path / "captions.txt").write_text(f"\ufeffa cat{apart}on a mat\r\na dog\n", encoding="utf-8")
    assert read_captions(tmp_path / "captions.txt", Captions(file="captions.txt")) == [f"a cat{apart}on a mat", "a dog"]


def test_sdxl_is_trained_as_its_code_is() -> None:
    """Clip and eps are those of a loss that is a mean over a latent; of five iterations one updates the student."""
    p = read_suite(ROOT / "suites/sdxl/params.yaml")
    for of in p.score_distillation.values():
        for optimiser in (of.student, of.fake, of.recording.optimiser):
            assert (optimiser.clip, optimiser.eps) == (10.0 * 4 * 128**2, pytest.approx(1e-8 * 4 * 128**2))
        assert of.student.warmup * of.fake_per_student == of.fake.warmup == of.recording.optimiser.warmup == 500
        assert of.recording.evaluation_batch == p.data.n_latents


def test_each_distinct_caption_is_encoded_once_and_told_by_its_row(tmp_path: Path) -> None:
    p, seen = Prompts.model_validate(VALUES["sdxl"]["prompts"] | {"batch": 2}), []
    encoded = encode_texts(["a", "bb"], ["ccc", "ccc", "dddd"], ["bb"], Lengths(), p, seen.append)
    save_texts(tmp_path / "captions", encoded, p)
    prompts = load_texts(tmp_path / "captions")
    assert prompts.texts == ("a", "bb", "ccc", "dddd") and seen[-1] == 4 and len(prompts.tokens) == 5
    assert [prompts.caption(i) for i in range(4)] == ["ccc", "ccc", "dddd", "ccc"]
    told = prompts.of_images([0, 2, 3])
    assert told.tokens[:, 0, 0].tolist() == [3, 4, 3] and told.pooled[:, 0].tolist() == [1.5, 2, 1.5] and told.tokens.dtype == torch.float32
    assert told.time_ids.tolist() == [[1024, 1024, 0, 0, 1024, 1024]] * 3
    drawn = prompts.drawn(Draw(0, "label", 0), 32)
    assert {*drawn.tokens[:, 0, 0].tolist()} == {1.0, 2.0}
    assert prompts.of_data(prompts.real).tokens[0, 0, 0] == 2 and copy.deepcopy(prompts) is prompts
    under = told.under(prompts.null, 3)
    assert not under.tokens.any() and not under.pooled.any() and torch.equal(under.time_ids, told.time_ids)

    denoiser = telling(lambda net: net, prompts)(build(UNetParameters(resolution=8, channels=[8], attention_levels=[]), 0.5))
    assert denoiser.conditions is prompts and copy.deepcopy(denoiser).conditions is prompts
    Guided(lambda x, sigma, condition: x + condition.tokens.mean(), 2.0, prompts.null)(torch.zeros(3, 1), torch.ones(()), told)
    save_texts(tmp_path / "none", None, None)
    assert load_texts(tmp_path / "none") is None


# --- measures and cost ------------------------------------------------------------------------------------------------------------------


def test_a_clip_score_is_the_librarys_under_a_convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    write_clip(tmp_path / "weights.safetensors", monkeypatch)
    p = ClipScore(model="ViT-g-14", trained_on="nothing", weights="weights.safetensors", factor=100, prefix="A photo depicts", n_images=3)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    captions = ["a cat", "two dogs", "a house", "a tree"]
    found = ClipModel(p, tmp_path).cosines(images, captions)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-g-14", pretrained=str(tmp_path / "weights.safetensors"))
    x = torch.stack([preprocess(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])
    words = open_clip.get_tokenizer("ViT-g-14")([f"A photo depicts {caption}" for caption in captions])
    with torch.no_grad():
        theirs = torch.nn.functional.cosine_similarity(model.eval().encode_image(x), model.encode_text(words)).double()
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-6)
    assert score(found, p) == pytest.approx(100 * found[:3].mean().item())
    assert score(-found.abs(), p.model_copy(update={"clamped": True})) == 0 > score(-found.abs(), p)
    with pytest.raises(UserError, match="open_clip knows no model 'ViT-none'"):
        ClipModel(p.model_copy(update={"model": "ViT-none"}), tmp_path)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-g-14", TINY_CLIP | {"embed_dim": 4})
    with pytest.raises(UserError, match=r"weights.safetensors does not fit ViT-g-14 \(size mismatch"):
        ClipModel(p, tmp_path)


def test_the_cost_is_that_of_the_counted_forwards() -> None:
    """Against counts by hand: SFD-v 28.5 forwards a trajectory, DisBack 21 an update of its student (DMD2: 25)."""
    sd = {item.names[0]: item for item in count(SUITES["sd15"])}
    p, about = SUITES["sd15"].trajectory_distillation["sfd-v"], PUBLISHED["teacher-sd15"]
    points = 256 * len({*range(0, p.rounds + 1, p.evaluate_every), p.rounds})
    trajectories = 1563 * 128 * 28.5 * about.gflop
    assert sd["latent-few-step@sfd-v-0"].forwards == pytest.approx(trajectories + points * (2 * about.gflop + about.decode))
    drawn = 30_000 * (2 * (2 + 3 + 4 + 5) * about.gflop + 4 * about.decode)
    assert sd["latent-samples@sfd-v-0"].forwards == pytest.approx(drawn) and sd["latent-samples@sfd-v-0"].features == 4 * 60_000
    xl = {item.names[0]: item for item in count(SUITES["sdxl"])}
    q, of = SUITES["sdxl"].score_distillation["disback"], PUBLISHED["teacher-sdxl"]
    # The five updates of the fake score share the student's samples; nodes are not guided; blocks are computed again.
    updates = q.updates * (25 - 4) - 9 * q.node_updates + q.updates * (1 + 5)
    curve = 64 * len({*range(0, q.updates + 1, q.evaluate_every)})
    assert xl["latent-one-step@disback-0"].forwards == pytest.approx((updates + curve) * of.gflop + curve * of.decode, rel=1e-6)
    weights = {row["method"]: float(row["weights, GiB"]) for suite in SUITES.values() for row in memory(suite)}
    assert weights["disback"] == pytest.approx(2567.464e6 * 40 / 2**30, abs=0.1)
    assert weights["disback-lora"] == pytest.approx((2567.464e6 * 4 + 196.75e6 * (32 + 40)) / 2**30, abs=0.1)


@pytest.mark.parametrize(
    ("source", "kind", "unet"),
    [
        ("teacher-sd15", "UNet2DConditionModel", SD15),
        pytest.param("teacher-sdxl", "UNet2DConditionModel", XL, marks=pytest.mark.slow),
        ("teacher-ldm-lsun-bedroom", "UNet2DModel", LSUN),
    ],
)
def test_the_cost_of_a_published_network_is_counted_in_the_librarys_own(source: str, kind: str, unet: dict) -> None:
    """Weights and operations of the full size, on the meta device, where nothing is computed; adapters too."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net = getattr(diffusers, kind)(**unet).eval()
        told = {"encoder_hidden_states": torch.zeros(1, 77, unet["cross_attention_dim"])} if "cross_attention_dim" in unet else {}
        if source == "teacher-sdxl":
            told["added_cond_kwargs"] = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        net(torch.zeros(1, net.config.in_channels, net.config.sample_size, net.config.sample_size), torch.ones(1), **told)
    about = PUBLISHED[source]
    assert sum(value.numel() for value in net.parameters()) / 1e6 == pytest.approx(about.weights, abs=5e-4)
    assert counter.get_total_flops() / 1e9 == pytest.approx(about.gflop, rel=1e-4)
    if source == "teacher-sdxl":
        p = SUITES["sdxl"].score_distillation["disback-lora"].adapters
        layers = [layer for name, layer in net.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d)) and _is_target(name, p)]
        sizes = [layer.weight[0].numel() + layer.weight.shape[0] for layer in layers]
        assert len(layers) == 788 and p.rank * sum(sizes) == 196_751_360


@pytest.mark.parametrize("name", NAMES)
def test_plan_says_bytes_licence_memory_and_hours_and_does_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / f"suites/{name}/params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(plan, ["--tflops", "100"], catch_exceptions=False).output
    for part in ("to be accepted in latent.accept_licence", "100 TFLOP/s (given)", "GPU memory", "This assumes", "float32"):
        assert part in shown
    assert ("captions_train2014.json" in shown) == (name == "sd15") and [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_whole_nodes_are_placed_one_at_a_time() -> None:
    nodes = [build(UNetParameters(resolution=8, channels=[8], attention_levels=[]), 0.5, seed) for seed in range(4)]
    placed, left = [], []
    for k, node in enumerate(nodes):
        node.to = lambda where, k=k, node=node: left.append((k, where)) or node
    path = offloaded(DegradationPath(nodes, None), lambda node: placed.append(nodes.index(node)) or node)
    assert path.teacher is nodes[0] and path.nodes[-1] is nodes[3] and path.nodes[2] is nodes[2] and path.nodes[2] is nodes[2]
    assert path.nodes[0] is nodes[0] and placed == [0, 3, 2] and left == [(3, "cpu")] and len(path.nodes) == 4


def test_an_evaluation_counts_its_largest_protocol() -> None:
    e = LatentEvaluation(frechet=[FrechetProtocol(n_images=20), FrechetProtocol(n_images=30, images="patch")], n_curve=2)
    assert e.n_images == 30 and e.names == ["fid_20", "patch_fid_30"]
