"""Files in the layouts of the published checkpoints, with random weights, and the published computations by hand.

The computations are written from the papers' formulas on the tensors of the file alone, in double precision; they
share nothing with the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BN_EPS = 1e-5
LN_EPS = 1e-5
Tensors = dict[str, torch.Tensor]


class Maker:
    """Random tensors of a sensible scale."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: Tensors = {}

    def normal(self, name, *shape, scale=None):
        fan_in = max(1, int(torch.tensor(shape[1:]).prod())) if len(shape) > 1 else 1
        deviation = (1.5 / fan_in) ** 0.5 if scale is None else scale
        self.tensors[name] = torch.randn(*shape, generator=self.generator) * deviation

    def uniform(self, name, size, low, high):
        self.tensors[name] = torch.rand(size, generator=self.generator) * (high - low) + low

    def norm_layer(self, name, size):
        self.uniform(f"{name}.weight", size, 0.5, 1.5)
        self.normal(f"{name}.bias", size, scale=0.2)

    def batch_norm(self, name, size):
        # Large shifts would drown the images' differences in a deep network.
        self.uniform(f"{name}.weight", size, 0.4, 1.2)
        self.normal(f"{name}.bias", size, scale=0.05)
        self.normal(f"{name}.running_mean", size, scale=0.1)
        self.uniform(f"{name}.running_var", size, 0.5, 1.5)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, rows, columns):
        self.normal(f"{name}.weight", rows, columns)
        self.normal(f"{name}.bias", rows, scale=0.1)

    def block(self, name, width):
        """A transformer block."""
        self.norm_layer(f"{name}.ln_1", width)
        self.normal(f"{name}.attn.in_proj_weight", 3 * width, width)
        self.normal(f"{name}.attn.in_proj_bias", 3 * width, scale=0.1)
        self.linear(f"{name}.attn.out_proj", width, width)
        self.norm_layer(f"{name}.ln_2", width)
        self.linear(f"{name}.mlp.c_fc", 4 * width, width)
        self.linear(f"{name}.mlp.c_proj", width, 4 * width)

    def text_tower(self, joint_dim, width=16, blocks=2):
        self.normal("token_embedding.weight", 50, width)
        self.normal("text_encoder.positional_embedding", 77, width)
        self.normal("text_encoder.text_projection", width, joint_dim)
        self.norm_layer("text_encoder.ln_final", width)
        for block in range(blocks):
            self.block(f"text_encoder.transformer.resblocks.{block}", width)

    def pooling(self, channels, descriptor_dim, p=2.6):
        self.tensors["aggregation.1.p"] = torch.tensor([p])
        self.linear("aggregation.3", descriptor_dim, channels)
        # Pooled channels are all positive; without this every image would give nearly the same descriptor.
        self.tensors["aggregation.3.weight"] -= self.tensors["aggregation.3.weight"].mean(dim=1, keepdim=True)
        self.tensors["aggregation.3.bias"] *= 0.1


def progeo_resnet(*, depths=(3, 4, 6, 3), width=8, joint_dim=24, seed=0) -> Tensors:
    """ProGEO's file of a CLIP ResNet."""
    make = Maker(seed)
    for number, (rows, columns) in enumerate([(width // 2, 3), (width // 2, width // 2), (width, width // 2)], 1):
        make.normal(f"backbone.conv{number}.weight", rows, columns, 3, 3)
        make.batch_norm(f"backbone.bn{number}", rows)
    channels = width
    for layer, depth in enumerate(depths, 1):
        planes = width * 2 ** (layer - 1)
        for block in range(depth):
            bottleneck(make, f"backbone.layer{layer}.{block}", channels, planes, downsample=block == 0)
            channels = 4 * planes
    make.normal("backbone.attnpool.positional_embedding", 50, channels)
    for name, rows in (("q_proj", channels), ("k_proj", channels), ("v_proj", channels), ("c_proj", joint_dim)):
        make.linear(f"backbone.attnpool.{name}", rows, channels)
    make.text_tower(joint_dim)
    make.pooling(channels, joint_dim)
    return make.tensors


def progeo_vit(*, patch_px=16, grid=4, blocks=12, width=64, joint_dim=24, seed=0) -> Tensors:
    """ProGEO's file of a CLIP ViT."""
    make = Maker(seed)
    make.normal("backbone.class_embedding", width, scale=0.5)
    make.normal("backbone.positional_embedding", grid * grid + 1, width, scale=0.5)
    make.normal("backbone.proj", width, joint_dim)
    make.normal("backbone.conv1.weight", width, 3, patch_px, patch_px)
    make.norm_layer("backbone.ln_pre", width)
    for block in range(blocks):
        make.block(f"backbone.transformer.resblocks.{block}", width)
    make.norm_layer("backbone.ln_post", width)
    make.text_tower(joint_dim)
    return make.tensors


def cosplace_resnet(*, depths=(2, 2, 2, 2), convolutions=2, descriptor_dim=32, seed=0) -> Tensors:
    """CosPlace's and EigenPlaces' file of a torchvision ResNet."""
    make = Maker(seed)
    make.normal("backbone.0.weight", 64, 3, 7, 7)
    make.batch_norm("backbone.1", 64)
    channels = 64
    for layer, depth in enumerate(depths):
        planes = 64 * 2**layer
        for index in range(depth):
            name = f"backbone.{4 + layer}.{index}"
            if convolutions == 3:
                bottleneck(make, name, channels, planes, downsample=index == 0)
                channels = 4 * planes
            else:
                basic_block(make, name, channels, planes, downsample=index == 0 and layer > 0)
                channels = planes
    make.pooling(channels, descriptor_dim)
    return make.tensors


def bottleneck(make, name, channels, planes, *, downsample):
    for number, shape in enumerate([(planes, channels, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)], 1):
        make.normal(f"{name}.conv{number}.weight", *shape)
        make.batch_norm(f"{name}.bn{number}", shape[0])
    if downsample:
        make.normal(f"{name}.downsample.0.weight", 4 * planes, channels, 1, 1)
        make.batch_norm(f"{name}.downsample.1", 4 * planes)


def basic_block(make, name, channels, planes, *, downsample):
    for number, columns in enumerate([channels, planes], 1):
        make.normal(f"{name}.conv{number}.weight", planes, columns, 3, 3)
        make.batch_norm(f"{name}.bn{number}", planes)
    if downsample:
        make.normal(f"{name}.downsample.0.weight", planes, channels, 1, 1)
        make.batch_norm(f"{name}.downsample.1", planes)


def described_by_progeo_resnet(tensors, images):
    """CLIP's ResNet up to layer4 (three convolutions first, average pooling before strides), then the pooling."""
    t = doubled(tensors)
    x = images.double()
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = F.conv2d(x, t[f"backbone.conv{number}.weight"], stride=stride, padding=1)
        x = F.relu(batch_normed(t, f"backbone.bn{number}", x))
    x = F.avg_pool2d(x, 2)
    for layer in (1, 2, 3, 4):
        for block in range(blocks_of(t, f"backbone.layer{layer}.")):
            stride = 2 if layer > 1 and block == 0 else 1
            name = f"backbone.layer{layer}.{block}"
            inner = F.relu(batch_normed(t, f"{name}.bn1", F.conv2d(x, t[f"{name}.conv1.weight"])))
            inner = F.relu(batch_normed(t, f"{name}.bn2", F.conv2d(inner, t[f"{name}.conv2.weight"], padding=1)))
            inner = F.avg_pool2d(inner, stride) if stride > 1 else inner
            inner = batch_normed(t, f"{name}.bn3", F.conv2d(inner, t[f"{name}.conv3.weight"]))
            if f"{name}.downsample.0.weight" in t:
                x = F.avg_pool2d(x, stride) if stride > 1 else x
                x = batch_normed(t, f"{name}.downsample.1", F.conv2d(x, t[f"{name}.downsample.0.weight"]))
            x = F.relu(x + inner)
    return pooled(t, x)


def described_by_progeo_vit(tensors, images):
    """Class token of CLIP's ViT after ln_post and the projection; not of unit length, as published."""
    t = doubled(tensors)
    weight = t["backbone.conv1.weight"]
    width, _, _, patch = weight.shape
    patches = F.unfold(images.double(), patch, stride=patch).transpose(1, 2)
    x = patches @ weight.reshape(width, -1).T
    x = torch.cat([t["backbone.class_embedding"].expand(len(x), 1, width), x], dim=1)
    x = layer_normed(t, "backbone.ln_pre", x + t["backbone.positional_embedding"])
    for block in range(blocks_of(t, "backbone.transformer.resblocks.")):
        name = f"backbone.transformer.resblocks.{block}"
        x = x + attended(t, f"{name}.attn", layer_normed(t, f"{name}.ln_1", x), heads=width // 64)
        hidden = layer_normed(t, f"{name}.ln_2", x) @ t[f"{name}.mlp.c_fc.weight"].T + t[f"{name}.mlp.c_fc.bias"]
        hidden = hidden / (1 + torch.exp(-1.702 * hidden))
        x = x + hidden @ t[f"{name}.mlp.c_proj.weight"].T + t[f"{name}.mlp.c_proj.bias"]
    return layer_normed(t, "backbone.ln_post", x[:, 0]) @ t["backbone.proj"]


def described_by_cosplace(tensors, images):
    """torchvision's ResNet (He et al.; the stride in the 3 x 3 convolution of a bottleneck), then the pooling."""
    t = doubled(tensors)
    x = F.conv2d(images.double(), t["backbone.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(batch_normed(t, "backbone.1", x)), 3, stride=2, padding=1)
    for layer in (4, 5, 6, 7):
        for block in range(blocks_of(t, f"backbone.{layer}.")):
            stride = 2 if layer > 4 and block == 0 else 1
            name = f"backbone.{layer}.{block}"
            last = 3 if f"{name}.conv3.weight" in t else 2
            inner = x
            for number in range(1, last + 1):
                kernel = t[f"{name}.conv{number}.weight"]
                here = stride if number == last - 1 else 1
                inner = F.conv2d(inner, kernel, stride=here, padding=kernel.shape[-1] // 2)
                inner = batch_normed(t, f"{name}.bn{number}", inner)
                inner = F.relu(inner) if number < last else inner
            if f"{name}.downsample.0.weight" in t:
                x = F.conv2d(x, t[f"{name}.downsample.0.weight"], stride=stride)
                x = batch_normed(t, f"{name}.downsample.1", x)
            x = F.relu(x + inner)
    return pooled(t, x)


def doubled(tensors):
    return {name: value.double() for name, value in tensors.items()}


def blocks_of(tensors, prefix):
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def batch_normed(t, name, x):
    scale = t[f"{name}.weight"] / (t[f"{name}.running_var"] + BN_EPS).sqrt()
    shift = t[f"{name}.bias"] - t[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def layer_normed(t, name, x):
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + LN_EPS).sqrt()
    return centred / deviation * t[f"{name}.weight"] + t[f"{name}.bias"]


def attended(t, name, x, heads):
    count, length, width = x.shape
    projected = x @ t[f"{name}.in_proj_weight"].T + t[f"{name}.in_proj_bias"]
    query, key, value = (
        part.reshape(count, length, heads, width // heads).transpose(1, 2) for part in projected.split(width, dim=-1)
    )
    weights = torch.softmax(query @ key.transpose(2, 3) / (width // heads) ** 0.5, dim=-1)
    mixed = (weights @ value).transpose(1, 2).reshape(count, length, width)
    return mixed @ t[f"{name}.out_proj.weight"].T + t[f"{name}.out_proj.bias"]


def pooled(t, x):
    """L2 norm over channels, generalised mean over positions, linear layer, L2 norm."""
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    p = t["aggregation.1.p"]
    mean = x.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)
    x = mean @ t["aggregation.3.weight"].T + t["aggregation.3.bias"]
    return x / x.norm(dim=1, keepdim=True)
