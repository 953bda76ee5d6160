"""Networks: the paper's, layer by layer; what is copied from a parent; weights on disk."""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from raytransfer.errors import UserError
from raytransfer.nets.architecture import CAFFENET, SMALL, Architecture, Layer, architecture
from raytransfer.nets.network import (
    Network,
    after_weights,
    initial_weights,
    layer_names,
    layers_sha256,
    seeded_generator,
    transplant,
    untrained_weights,
)
from raytransfer.nets.weights import from_bytes, to_bytes
from raytransfer.study.treatment import Treatment

BASE_A, BASE_B = Treatment("random:0", "A"), Treatment("random:0", "B")
FOUR = SMALL.with_outputs(4)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


SLIM = replace(
    CAFFENET,
    layers=(
        *CAFFENET.layers[:5],
        *(replace(layer, outputs=96) for layer in CAFFENET.layers[5:7]),
        CAFFENET.layers[7],
    ),
)
"""CaffeNet with few units in layers 6 and 7, which hold nine tenths of its weights."""


@pytest.fixture(scope="module")
def slim():
    return initial_weights(SLIM, 3, seeded_generator(0, "test"))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# The paper's network, as in paper.md, section 3.


def test_caffenet_has_60_965_224_parameters():
    shapes = [
        layer.weight_shape(inputs)
        for layer, inputs in zip(CAFFENET.layers, CAFFENET.input_shapes(3), strict=True)
    ]
    biases = sum(layer.outputs for layer in CAFFENET.layers)
    assert biases + sum(math.prod(shape) for shape in shapes) == 60_965_224
    assert shapes == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
        (4096, 9216),
        (4096, 4096),
        (1000, 4096),
    ]


def test_caffenets_layers_have_the_papers_shapes():
    shapes = CAFFENET.input_shapes(3)
    before_pooling = [
        replace(layer, pool=None).output_shape(shape)
        for layer, shape in zip(CAFFENET.layers, shapes, strict=True)
    ]
    assert shapes[0] == (3, 227, 227)
    assert before_pooling[:5] == [
        (96, 55, 55),
        (256, 27, 27),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
    ]
    assert shapes[5] == (256, 6, 6)
    assert before_pooling[5:] == [(4096, 1, 1), (4096, 1, 1), (1000, 1, 1)]


def test_weights_are_drawn_in_the_shapes_of_the_layers(slim):
    for number, inputs in enumerate(SLIM.input_shapes(3), 1):
        layer = SLIM.layers[number - 1]
        assert tuple(slim[f"layer{number}.weight"].shape) == layer.weight_shape(inputs)
        assert tuple(slim[f"layer{number}.bias"].shape) == (layer.outputs,)


def test_caffenets_multiply_adds_are_the_papers():
    millions = [round(count / 1e6) for count in CAFFENET.multiply_adds(3)]
    assert millions == [105, 224, 150, 112, 75, 38, 17, 4]


def test_caffenets_initial_weights_have_the_papers_spread_and_biases(slim):
    stds = [0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01]
    biases = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    for number, (std, bias) in enumerate(zip(stds, biases, strict=True), 1):
        weight = slim[f"layer{number}.weight"]
        assert weight.std().item() == pytest.approx(std, rel=0.04)
        assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5
        assert torch.all(slim[f"layer{number}.bias"] == bias)


def test_caffenet_computes_what_the_papers_table_says(slim):
    """ReLU, then pooling, then response normalisation; dropout after layers 6 and 7 alone."""
    image = normal(1, 3, 227, 227) * 60
    w = [slim[name] for number in range(1, 9) for name in layer_names(number)]

    def normalise(x):
        squares = F.pad((x * x)[:, None], (0, 0, 0, 0, 2, 2))
        near = sum(squares[:, :, i : i + x.shape[1]] for i in range(5))[:, 0]
        return x / (1 + 1e-4 / 5 * near) ** 0.75

    x = normalise(F.max_pool2d(F.relu(F.conv2d(image, w[0], w[1], stride=4)), 3, 2))
    x = F.relu(F.conv2d(x, w[2], w[3], padding=2, groups=2))
    x = normalise(F.max_pool2d(x, 3, 2))
    x = F.relu(F.conv2d(x, w[4], w[5], padding=1))
    x = F.relu(F.conv2d(x, w[6], w[7], padding=1, groups=2))
    x = F.max_pool2d(F.relu(F.conv2d(x, w[8], w[9], padding=1, groups=2)), 3, 2)
    x = F.relu(F.linear(x.flatten(1), w[10], w[11]))
    x = F.relu(F.linear(x, w[12], w[13]))
    x = F.linear(x, w[14], w[15])
    with torch.no_grad():
        logits = Network(SLIM, slim).eval()(image)
    torch.testing.assert_close(logits, x, rtol=1e-4, atol=1e-4)
    assert [layer.dropout for layer in CAFFENET.layers] == [False] * 5 + [True, True, False]


def test_pooling_comes_before_response_normalisation():
    layer, x = CAFFENET.layers[0], normal(2, 96, 13, 13) * 50
    pooled = F.max_pool2d(F.relu(x), 3, 2)
    normalised = F.local_response_norm(F.relu(x), 5, 1e-4, 0.75, 1.0)
    ours = after_weights(layer, x)
    torch.testing.assert_close(ours, F.local_response_norm(pooled, 5, 1e-4, 0.75, 1.0))
    assert (ours - F.max_pool2d(normalised, 3, 2)).abs().max() > 0.1


def test_response_normalisation_is_in_float32_whatever_comes_to_it():
    layer, x = CAFFENET.layers[0], (normal(2, 96, 13, 13) * 50).bfloat16()
    assert torch.equal(after_weights(layer, x.clone()), after_weights(layer, x.float()))


def test_response_normalisation_does_not_mix_networks():
    layer, (one, other) = CAFFENET.layers[0], normal(2, 3, 96, 13, 13) * 50
    together = after_weights(layer, torch.cat([one, other], 1), networks=2)
    apart = torch.cat([after_weights(layer, one), after_weights(layer, other)], 1)
    torch.testing.assert_close(together, apart)


# Any architecture.


def test_the_classifier_has_one_output_a_class():
    assert architecture("caffenet", 449).layers[-1].outputs == 449
    assert architecture("caffenet", 449).layers[:-1] == CAFFENET.layers[:-1]
    assert architecture("small", 5).layers[-1] == replace(SMALL.layers[-1], outputs=5)


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'alexnet'; known: caffenet, small"):
        architecture("alexnet", 10)


@pytest.mark.parametrize("arch", [CAFFENET, SMALL])
def test_a_network_has_eight_layers_and_no_relu_after_the_classifier(arch):
    assert len(arch.layers) == 8
    assert [layer.relu for layer in arch.layers] == [True] * 7 + [False]
    assert [layer.convolution for layer in arch.layers] == [True] * 5 + [False] * 3
    assert arch.first_dropout == 6


def test_hes_initial_weights_have_the_spread_of_their_fan_in():
    arch = Architecture("wide", 6, (Layer(400, 3), Layer(300), Layer(10, bias=0.5)))
    weights = initial_weights(arch, 5, seeded_generator(0))
    for number, fan_in in ((1, 45), (2, 400 * 16), (3, 300)):
        std = weights[f"layer{number}.weight"].std().item()
        assert std == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert torch.all(weights["layer3.bias"] == 0.5)


def test_the_small_network_is_the_plain_composition_of_its_layers():
    weights = initial_weights(FOUR, 1, seeded_generator(3))
    network = Network(FOUR, weights, dropout=0.5).eval()
    images = normal(6, 1, 28, 28)
    x = images
    for number, layer in enumerate(FOUR.layers, 1):
        weight, bias = (weights[name] for name in layer_names(number))
        if number <= 5:
            x = F.conv2d(x, weight, bias, layer.stride, layer.padding)
            x = F.max_pool2d(F.relu(x), *layer.pool) if layer.pool else F.relu(x)
        elif number <= 7:
            x = F.relu(F.linear(x.flatten(1), weight, bias))
        else:
            x = F.linear(x, weight, bias)
        shape = layer.output_shape(FOUR.input_shapes(1)[number - 1])
        assert tuple(x.shape[1:]) == shape[: x.ndim - 1]
    with torch.no_grad():
        torch.testing.assert_close(network(images), x)
        halves = network(network(images, stop=4), start=4)
        torch.testing.assert_close(halves, x)
        dropped = network.train()(images)
    assert not torch.allclose(dropped, x)


def test_a_network_keeps_its_own_copy_of_the_weights():
    weights = initial_weights(FOUR, 1, seeded_generator(3))
    network = Network(FOUR, weights)
    with torch.no_grad():
        network.get_parameter("layer1.weight").zero_()
    assert weights["layer1.weight"].abs().sum() > 0


# Initialise and transplant.


def new(treatment, parent=None):
    return transplant(treatment, FOUR, 1, parent)


def parent_of(treatment):
    """Stands in for the trained weights of the network that is copied from."""
    if treatment.kind == "untrained":
        return untrained_weights(treatment, FOUR, 1)
    return {name: tensor + 1 for name, tensor in new(treatment.parent).items()}


COPIES = [
    Treatment("random:0", "B", source, n, finetuned)
    for source in "ABR"
    for n in range(1, 8)
    for finetuned in ((False, True) if source != "R" else (False,))
]


@pytest.mark.parametrize("treatment", COPIES, ids=str)
def test_the_first_n_layers_are_the_parents_and_no_other(treatment):
    parent = parent_of(treatment)
    weights = new(treatment, parent)
    assert list(weights) == list(parent)
    for number in range(1, 9):
        weight, bias = layer_names(number)
        assert torch.equal(weights[weight], parent[weight]) == (number <= treatment.n)
        if treatment.kind != "untrained":
            assert torch.equal(weights[bias], parent[bias]) == (number <= treatment.n)
    assert layers_sha256(weights, treatment.n) == layers_sha256(parent, treatment.n)
    assert layers_sha256(weights, treatment.n + 1) != layers_sha256(parent, treatment.n + 1)


def test_new_layers_differ_from_every_other_networks():
    networks = {t: new(t, parent_of(t)) for t in COPIES}
    networks |= {t: new(t) for t in (BASE_A, BASE_B, replace(BASE_B, seed=1))}
    for number in range(1, 9):
        drawn = [w[f"layer{number}.weight"] for t, w in networks.items() if t.n < number]
        assert len({tensor.numpy().tobytes() for tensor in drawn}) == len(drawn)
    assert len(drawn) == len(networks)  # the classifier is always new


def test_the_same_treatment_begins_the_same():
    for treatment in COPIES[:3]:
        one, other = (new(treatment, parent_of(treatment)) for _ in range(2))
        assert layers_sha256(one, 8) == layers_sha256(other, 8)


def test_untrained_networks_of_a_split_and_seed_copy_from_one_random_network():
    first, last = (Treatment("random:0", "B", "R", n) for n in (1, 7))
    other = replace(last, seed=1)
    assert layers_sha256(parent_of(first), 8) == layers_sha256(parent_of(last), 8)
    assert layers_sha256(parent_of(other), 8) != layers_sha256(parent_of(last), 8)


def test_a_transplant_leaves_its_parent_alone():
    parent = parent_of(COPIES[4])
    before = layers_sha256(parent, 8)
    for tensor in new(COPIES[4], parent).values():
        tensor.zero_()
    assert layers_sha256(parent, 8) == before


def test_the_hash_of_layers_sees_every_byte_and_shape():
    weights = new(BASE_A)
    before = layers_sha256(weights, 3)
    assert layers_sha256(weights, 0) != before
    for name in layer_names(3):
        changed = {**weights, name: weights[name].clone()}
        changed[name].view(-1)[-1] += 1
        assert layers_sha256(changed, 3) != before
        assert layers_sha256(changed, 2) == layers_sha256(weights, 2)
    reshaped = {**weights, "layer3.weight": weights["layer3.weight"].flatten()}
    assert layers_sha256(reshaped, 3) != before


def test_the_draws_are_the_ones_of_old():
    """Changing them changes every network ever trained: do it in the open, say so in CHANGELOG.md,
    and put here what the failure prints."""
    arch = Architecture("tiny", 4, (Layer(3, 3), Layer(2)))
    weights = transplant(replace(BASE_B, seed=5), arch, 1, None)
    drawn = [round(value, 5) for value in weights["layer2.weight"].flatten().tolist()[:4]]
    assert drawn == [-0.26047, -0.4392, -0.62229, 0.28008]


# On disk.


def test_weights_come_back_from_safetensors_to_the_bit():
    weights = new(BASE_A)
    content, sha256 = to_bytes(weights)
    back = from_bytes(content, sha256, "me")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert to_bytes(back) == (content, sha256)


def test_altered_weights_are_refused_by_name():
    content, sha256 = to_bytes(new(BASE_A))
    altered = bytearray(content)
    altered[-1] ^= 1
    for wrong in (bytes(altered), content[:-4], b""):
        with pytest.raises(UserError, match=r"random:0\.baseA\.s0 are not those"):
            from_bytes(wrong, sha256, BASE_A.id)


def test_missing_and_unreadable_weights_are_refused_by_name():
    with pytest.raises(UserError, match=r"random:0\.baseA\.s0 are missing"):
        from_bytes(None, "", BASE_A.id)
    garbage = b"\x80\x04no pickle here"
    sha256 = hashlib.sha256(garbage).hexdigest()
    with pytest.raises(UserError, match=r"random:0\.baseA\.s0 cannot be read"):
        from_bytes(garbage, sha256, BASE_A.id)
