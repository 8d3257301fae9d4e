import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tests.conftest import FAMILIES

from lite_focus_detr import ops
from lite_focus_detr.modeling.structures import Targets


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_for_any_ground_truth(
    tiny_config, make_batch, family, counts
):
    model = build_model(tiny_config(family)).train()
    sum(model(make_batch(counts)).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_the_losses_do_not_depend_on_the_ground_truth(tiny_config, make_batch, family):
    model = build_model(tiny_config(family)).train()
    assert list(model(make_batch((3, 1)))) == list(model(make_batch((0, 0))))


@pytest.mark.parametrize("family", FAMILIES)
def test_images_with_fewer_tokens_than_queries_are_detected(tiny_config, make_batch, family):
    model = build_model(tiny_config(family, NUM_QUERIES=900)).eval()
    batch = make_batch((0, 0, 0), sizes=((33, 32), (64, 64), (1, 40)))
    results = model(batch)
    assert [len(x["instances"]) > 0 for x in results] == [True] * 3


@pytest.mark.parametrize("family", ["deformable_two_stage", "dino"])
def test_a_batch_detects_what_its_images_give_alone_when_queries_exceed_tokens(
    tiny_config, make_batch, family
):
    cfg = tiny_config(family, NUM_QUERIES=900, **{"DECODER.POSITION_FRAME": "image"})
    # The backbone and the neck see the padding: only images of one size compare exactly.
    model = build_model(cfg).double().eval()
    one, other = make_batch((0, 0), sizes=((64, 64), (64, 64)))
    alone, both = model([one])[0]["instances"], model([one, other])[0]["instances"]
    torch.testing.assert_close(both.scores, alone.scores, rtol=0, atol=1e-10)


def test_gradient_checkpointing_changes_no_gradient(tiny_config, make_batch):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(tiny_config("dino", GRADIENT_CHECKPOINTING=recompute)).double().train()
        torch.manual_seed(1)
        sum(model(make_batch((3, 1))).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_keeps_references_in_full_precision(tiny_config, make_batch, monkeypatch, family):
    dtypes = []
    original = ops.fused_deformable_attention

    def spy(value, spatial_shapes, reference_points, *rest):
        dtypes.append((value.dtype, reference_points.dtype))
        return original(value, spatial_shapes, reference_points, *rest)

    monkeypatch.setattr(ops, "fused_deformable_attention", spy)
    model = build_model(tiny_config(family)).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_batch((3, 1)))
    assert set(dtypes) == {(torch.bfloat16, torch.float32)}
    sum(losses.values()).backward()


def test_coco_id_rows_are_mapped_to_contiguous_classes_and_back(tiny_config, make_batch):
    cfg = tiny_config("dino", NUM_CLASSES=91, COCO_ID_ROWS=True)
    model = build_model(cfg)
    batch = make_batch((1, 1), num_classes=80)
    seen = {}
    model.criterion = lambda outputs, targets, num_boxes: seen.update(t=targets) or {}
    batch[0]["instances"].gt_classes[:] = 79  # toothbrush, category id 90
    batch[1]["instances"].gt_classes[:] = 0  # person, category id 1
    model.train()(batch)
    assert seen["t"].labels.tolist() == [[90], [1]]
    classes = model.eval()(batch)[0]["instances"].pred_classes
    assert classes.max() < 80


def test_maps_that_the_backbone_does_not_give_are_named(tiny_config):
    cfg = tiny_config("dino", NUM_LEVELS=5, IN_FEATURES=["res2", "res3", "res4", "res5"])
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    with pytest.raises(ValueError, match=r"IN_FEATURES .* set MODEL.RESNETS.OUT_FEATURES"):
        build_model(cfg)


def test_ordinary_queries_see_no_ground_truth_when_tokens_are_fewer_than_queries(
    tiny_config, make_batch
):
    torch.manual_seed(0)
    # One image has fewer tokens than queries, so that padding and denoising masks are joined.
    cfg = tiny_config("dino", NUM_QUERIES=150)
    model = build_model(cfg).train()
    batch = make_batch((3, 1), sizes=((64, 64), (128, 160)))
    ordinary = []
    for scale in (1.0, -3.0):
        with torch.no_grad():
            model.denoising.label_enc.weight.mul_(scale)
            torch.manual_seed(1)
            losses = model(batch)
        ordinary.append({k: v.item() for k, v in losses.items() if "_dn" not in k})
    assert ordinary[0] == pytest.approx(ordinary[1], rel=1e-5)


def test_images_are_normalised_and_padded_to_what_the_backbone_divides(tiny_config, monkeypatch):
    cfg = tiny_config("dino")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]
    model = build_model(cfg)
    monkeypatch.setattr(type(model.backbone), "size_divisibility", 32)
    sizes = [(40, 70), (33, 20)]
    inputs = [{"image": torch.full((3, *size), 50, dtype=torch.uint8)} for size in sizes]
    images = model.preprocess_image(inputs)
    assert images.image_sizes == sizes
    expected = torch.zeros(2, 3, 64, 96)
    for image, (height, width) in zip(expected, sizes, strict=True):
        image[:, :height, :width] = torch.tensor([20.0, 7.5, 4.0])[:, None, None]
    assert torch.equal(images.tensor, expected)
    monkeypatch.setattr(type(model.backbone), "padding_constraints", {"square_size": 128})
    assert model.preprocess_image(inputs).tensor.shape == (2, 3, 128, 128)


def test_detection_pads_no_image_for_another(tiny_config, make_batch):
    model = build_model(tiny_config("dino"))
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].image_sizes))
    batch = make_batch((1, 1))
    sizes = [tuple(x["image"].shape[1:]) for x in batch]
    assert sizes[0] != sizes[1]
    model.eval()(batch)
    model.forward_outputs(model.preprocess_image(batch))  # a padded batch as published
    model.train()(batch)
    assert seen == [(sizes[0],), (sizes[1],), tuple(sizes), tuple(sizes)]


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_ground_truth_and_detections_are_drawn_side_by_side(
    tiny_config, make_batch, monkeypatch, channels
):
    cfg = tiny_config("dino")
    cfg.VIS_PERIOD, cfg.INPUT.FORMAT = 2, channels
    model = build_model(cfg).train()
    batch = make_batch((1, 1))
    batch[0]["image"][:] = torch.tensor([10.0, 20.0, 30.0])[:, None, None]
    batch[0]["instances"].gt_boxes.tensor[0] = torch.tensor([8.0, 12.0, 40.0, 44.0])
    pictures = []
    with EventStorage(0) as storage:
        monkeypatch.setattr(storage, "put_image", lambda title, image: pictures.append(image))
        for _ in range(3):
            model(batch)
            storage.step()
    assert len(pictures) == 2  # Iterations 0 and 2.
    height, width = batch[0]["instances"].image_size
    assert pictures[0].shape == (3, height, 2 * width)
    # On the upper side of the box: lime.
    assert pictures[0][:, 12, 20].tolist() == [0, 255, 0]
    background = [10, 20, 30] if channels == "RGB" else [30, 20, 10]
    assert pictures[0][:, 5, 2].tolist() == background


@pytest.mark.parametrize(("architecture", "panels"), [("DeformableDETR", 2), ("FocusDETR", 3)])
def test_pictures_of_the_training_change_nothing_and_show_kept_tokens(
    tiny_config, make_batch, monkeypatch, architecture, panels
):
    results, pictures = [], {}
    for period in (0, 1):
        cfg = tiny_config("dino")
        cfg.MODEL.META_ARCHITECTURE, cfg.VIS_PERIOD = architecture, period
        cfg.MODEL.FOCUS.KEEP_RATIOS = [0.5, 0.25]
        torch.manual_seed(0)
        model = build_model(cfg).train()
        with EventStorage() as storage:
            put = lambda title, image: pictures.update({title: image})  # noqa: E731
            monkeypatch.setattr(storage, "put_image", put)
            losses = model(make_batch((1, 1)))
        results.append([*[x.item() for x in losses.values()], torch.rand(1).item()])
    assert results[0] == results[1]
    ((title, picture),) = pictures.items()
    assert title.count("|") == panels - 1
    assert picture.shape == (3, 64, panels * 96)


def test_other_processes_make_no_pictures(tiny_config, make_batch, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    cfg = tiny_config("dino")
    cfg.VIS_PERIOD = 1
    model = build_model(cfg).train()
    with EventStorage() as storage:
        monkeypatch.setattr(storage, "put_image", lambda title, image: pytest.fail(title))
        model(make_batch((1, 1)))


def test_detections_are_in_pixels_of_the_size_that_the_input_names_or_of_the_image(
    tiny_config, make_batch
):
    model = build_model(tiny_config("dino")).eval()
    plain, named = make_batch((0, 0))
    named.update(height=160, width=32)
    results = [x["instances"] for x in model([plain, named])]
    assert [x.image_size for x in results] == [(64, 96), (160, 32)]


def test_an_image_has_as_many_detections_as_asked_for(tiny_config, make_batch):
    cfg = tiny_config("dino")
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    results = build_model(cfg).eval()(make_batch((0, 0)))
    assert [len(x["instances"]) for x in results] == [7, 7]


def test_outputs_name_the_tokens_and_the_slots_of_the_ordinary_queries(tiny_config, make_batch):
    # The first image has fewer tokens than there are queries.
    model = build_model(tiny_config("dino", NUM_QUERIES=150)).train()
    images = model.preprocess_image(make_batch((0, 0), sizes=((64, 64), (128, 160))))
    boxes = torch.full((2, 1, 4), 0.5)
    targets = Targets(torch.zeros(2, 1, dtype=torch.int64), boxes, (1, 1))
    outputs = model.forward_outputs(images, targets=targets)
    assert outputs.denoising.content.shape[1] > 0
    assert outputs.proposal_indices.shape == outputs.pred_logits.shape[:2] == (2, 150)
    assert outputs.padding_mask.shape == (2, 150)
    padded = outputs.tokens.padding_mask.gather(1, outputs.proposal_indices)
    assert torch.equal(outputs.padding_mask, padded)
    assert padded.any(1).tolist() == [True, False]


def test_the_normalisation_of_images_is_no_weight(tiny_config):
    cfg = tiny_config("dino")
    cfg.MODEL.PIXEL_MEAN = [10.0, 20.0, 30.0]
    model = build_model(cfg)
    # Published files do not have it, and fine-tuning with other values must take effect.
    assert not [name for name in model.state_dict() if name.startswith("pixel_")]
    assert dict(model.named_buffers())["pixel_mean"].flatten().tolist() == [10.0, 20.0, 30.0]
