"""Small networks of the form of AlexNet and of VGG: convolutions, pooling, and two wide layers with dropout.

timm knows them in the process that built them, and in no other, so they are not among the members of all suites.
"""

from tests.models.parts import SIDE
from tests.models.vision import build_timm

PLANS = {
    "small_alexnet": ["11/4:16", "pool", "5:32", "pool", "3:48", "3:48", "3:32", "pool"],
    "small_vgg": ["3:16", "pool", "3:32", "pool", "3:48", "3:48", "pool", "3:64", "3:64", "pool"],
}
"""Layers in order: ``KERNEL/STRIDE:CHANNELS`` for a convolution with ReLU, or ``pool``."""
WIDTH = 64


def plain(plan, num_classes=1000, in_chans=3, drop_rate=0.5):
    """Return a network of some layers, with timm's interface."""
    from torch import nn

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            layers, channels = [], in_chans
            for word in plan:
                if word == "pool":
                    layers.append(nn.MaxPool2d(2, ceil_mode=True))
                    continue
                shape, _, out = word.partition(":")
                kernel, _, stride = shape.partition("/")
                layers.append(nn.Conv2d(channels, int(out), int(kernel), int(stride or 1), int(kernel) // 2))
                layers.append(nn.ReLU())
                channels = int(out)
            self.num_classes, self.num_features, self.head_hidden_size = num_classes, channels, WIDTH
            self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
            self.wide = nn.Sequential(
                nn.Flatten(),
                nn.Dropout(drop_rate),
                nn.Linear(4 * channels, WIDTH),
                nn.ReLU(),
                nn.Dropout(drop_rate),
                nn.Linear(WIDTH, WIDTH),
                nn.ReLU(),
            )
            self.classifier = nn.Linear(WIDTH, num_classes) if num_classes else nn.Identity()

        def forward_features(self, x):
            return self.features(x)

        def forward_head(self, x, pre_logits=False):
            x = self.wide(x)
            return x if pre_logits else self.classifier(x)

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    return Plain()


def build(folder, architecture):
    """Make an architecture known to timm, and save it with weights of its own."""
    import timm
    from timm.models import build_model_with_cfg, register_model

    if not timm.is_model(architecture):

        def made(pretrained=False, pretrained_cfg=None, **given):
            cfg = pretrained_cfg or {"classifier": "classifier", "input_size": (3, SIDE, SIDE)}
            return build_model_with_cfg(
                lambda **own: plain(PLANS[architecture], **own), architecture, pretrained, pretrained_cfg=cfg, **given
            )

        made.__name__ = architecture
        made.__module__ = __name__
        register_model(made)
    return build_timm(folder, architecture)


MEMBERS = {name: lambda folder, name=name: build(folder, name) for name in PLANS}
