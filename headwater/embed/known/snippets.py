"""Files for ``python:FILE.py:CLASS``: encoders that need a package or code of their authors.

A user saves one, installs what its first lines name, and owns it from then on.
"""

from __future__ import annotations

_TORCHVISION = '''
    def prepare(self, modality, item):
        """Return the pixels of an image, float32 of shape (3, height, width)."""
        return self.transform(item).numpy()
'''

CONCH = (
    '''"""CONCH: pip install git+https://github.com/Mahmoodlab/CONCH.git"""

import numpy as np
import torch


class Conch:
    """Images before the contrastive projection (512 values), as its authors advise for classifiers.

    For zero-shot use proj_contrast=True and normalize=True instead: another space of the same length.
    """

    modalities = ("image",)

    def load(self, weights, device):
        """Build the model; --weights names its pytorch_model.bin."""
        from conch.open_clip_custom import create_model_from_pretrained

        place = "hf_hub:MahmoodLab/conch" if weights is None else str(weights)
        self.model, self.transform = create_model_from_pretrained("conch_ViT-B-16", place)
        self.model.eval().to(device)
        self.device = device
'''
    + _TORCHVISION
    + '''
    def encode(self, modality, batch):
        """Return an array of shape (n, 512)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.stack(batch)).to(self.device)
            return self.model.encode_image(x, proj_contrast=False, normalize=False).float().cpu().numpy()
'''
)

CONCH_15 = (
    '''"""CONCH v1.5, the tile encoder of TITAN. Its code comes from the hub and runs with your rights."""

import numpy as np
import torch

PLACE = "MahmoodLab/TITAN"  # or the folder that you downloaded
REVISION = "dac6773d9961cfc75503440676ff157a2c6e8d2e"


class Conch15:
    """Tiles of 512 pixels at 20x, resized to 448; 768 values."""

    modalities = ("image",)

    def load(self, weights, device):
        """Build the model."""
        from torchvision import transforms
        from transformers import AutoModel

        titan = AutoModel.from_pretrained(PLACE, revision=REVISION, trust_remote_code=True)
        self.model, _ = titan.return_conch()
        self.model.eval().to(device)
        self.device = device
        self.transform = transforms.Compose(
            [
                transforms.Resize(448, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(448),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
'''
    + _TORCHVISION
    + '''
    def encode(self, modality, batch):
        """Return an array of shape (n, 768)."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.stack(batch)).to(self.device)).float().cpu().numpy()
'''
)

MUSK = (
    '''"""MUSK: pip install fairscale git+https://github.com/lilab-stanford/MUSK"""

import numpy as np
import torch


class Musk:
    """Images at several scales (2048 values), as its authors advise for linear classifiers."""

    modalities = ("image",)

    def load(self, weights, device):
        """Build the model; --weights names its model.safetensors."""
        import timm
        from musk import modeling, utils  # noqa: F401 (modeling registers the architecture)
        from torchvision import transforms

        self.model = timm.create_model("musk_large_patch16_384")
        place = "hf_hub:xiangjx/musk" if weights is None else str(weights)
        utils.load_model_and_may_interpolate(place, self.model, "model|module", "")
        self.model.eval().to(device)
        self.device = device
        self.transform = transforms.Compose(
            [
                transforms.Resize(384, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(384),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ]
        )
'''
    + _TORCHVISION
    + '''
    def encode(self, modality, batch):
        """Return an array of shape (n, 2048)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.stack(batch)).to(self.device)
            found = self.model(image=x, with_head=False, out_norm=False, ms_aug=True, return_global=True)[0]
            return found.float().cpu().numpy()
'''
)

GIGAPATH_FLASH = (
    '''"""GigaPath-Flash: pip install git+https://github.com/prov-gigapath/prov-gigapath"""

import numpy as np
import torch


class GigaPathFlash:
    """The class token of a ViT-S/16 (384 values)."""

    modalities = ("image",)

    def load(self, weights, device):
        """Build the model; --weights names its pytorch_model.bin."""
        import gigapath.tile_encoder  # noqa: F401 (registers the architecture)
        import timm
        from huggingface_hub import hf_hub_download
        from torchvision import transforms

        file = weights or hf_hub_download("prov-gigapath/prov-gigapath-flash", "pytorch_model.bin")
        self.model = timm.create_model("gigapath_tile_enc_dinov2s", num_classes=0)
        self.model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self.model.eval().to(device)
        self.device = device
        self.transform = transforms.Compose(
            [
                transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
'''
    + _TORCHVISION
    + '''
    def encode(self, modality, batch):
        """Return an array of shape (n, 384)."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.stack(batch)).to(self.device)).float().cpu().numpy()
'''
)

GENBIO = (
    '''"""GenBio-PathFM. Its code comes from the hub and runs with your rights."""

import numpy as np
import torch

PLACE = "genbio-ai/genbio-pathfm"  # or the folder that you downloaded


class GenBioPathFM:
    """The output of the model (4608 values)."""

    modalities = ("image",)

    def load(self, weights, device):
        """Build the model."""
        from torchvision import transforms
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(PLACE, trust_remote_code=True).eval().to(device)
        self.device = device
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize((0.697, 0.575, 0.728), (0.188, 0.240, 0.187)),
            ]
        )
'''
    + _TORCHVISION
    + '''
    def encode(self, modality, batch):
        """Return an array of shape (n, 4608)."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(np.stack(batch)).to(self.device)).float().cpu().numpy()
'''
)

MAMMO_CLIP = '''"""Mammo-CLIP: git clone https://github.com/batmanlab/Mammo-CLIP, and name its codebase in CODE.

First convert the checkpoint, which is a pickle, on a machine where it can do no harm:
keep the tensors of checkpoint["model"] whose names begin with image_encoder., without that prefix, and save them with
safetensors. --weights names the converted file.
"""

import sys

import numpy as np
import torch
from PIL import Image

CODE = "Mammo-CLIP/src/codebase"
NETWORK = "efficientnet-bB_NUMBER"
HEIGHT, WIDTH = 1520, 912
MEAN, STD = 0.3089279, 0.25053555408335154  # of Mammo-CLIP's training images, in the range 0 to 1


class MammoClip:
    """The pooled output of the image encoder (B_DIM values)."""

    modalities = ("image",)

    def load(self, weights, device):
        """Build the network of the authors' code, and load the converted weights."""
        from safetensors.torch import load_file

        if weights is None:
            raise ValueError("pass --weights FILE, the converted checkpoint")
        sys.path.insert(0, CODE)
        from breastclip.model.modules.efficientnet_custom import EfficientNet

        self.model = EfficientNet.from_name(NETWORK, num_classes=1)
        state = load_file(weights)
        own = set(self.model.state_dict())
        lacking = [name for name in own if name not in state and not name.startswith("_fc.")]
        if lacking:
            raise ValueError(f"the weights lack {len(lacking)} tensors, such as {sorted(lacking)[0]}")
        self.model.load_state_dict({name: tensor for name, tensor in state.items() if name in own}, strict=False)
        self.model.eval().to(device)
        self.device = device

    def prepare(self, modality, item):
        """Return float32 of shape (1, 1520, 912): the darkest pixel 0, the brightest 1, then standardised."""
        grey = np.asarray(item.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.float32)
        low, high = grey.min(), grey.max()
        if high == low:
            raise ValueError("the image has a single level")
        return ((grey - low) / (high - low) - MEAN)[None] / STD

    def encode(self, modality, batch):
        """Return an array of shape (n, B_DIM)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.stack(batch)).to(self.device).expand(-1, 3, -1, -1)
            return self.model.extract_features(x).mean((2, 3)).float().cpu().numpy()
'''


def mammo_clip(number: int, dim: int) -> str:
    """Return the file for the EfficientNet of a size."""
    return MAMMO_CLIP.replace("B_NUMBER", str(number)).replace("B_DIM", str(dim))
