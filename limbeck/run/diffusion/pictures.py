"""Images as PNG, for a report that is one file."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor

__all__ = ["strip_of"]

GAP = 1  # transparent columns between two images


def strip_of(images: Tensor) -> str:
    """Images (N, C, H, W) in [-1, 1] side by side, as a PNG in base64; grey for one channel, colour for three."""
    x = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    if x.shape[1] not in (1, 3):
        x = x[:, :1]
    opaque = torch.full_like(x[:, :1], 255)
    x = torch.cat([x, opaque], 1)  # (N, C + 1, H, W): the last channel is how opaque a pixel is
    count, channels, height, width = x.shape
    wide = torch.zeros(channels, height, count * (width + GAP) - GAP, dtype=torch.uint8)
    for k in range(count):
        wide[:, :, k * (width + GAP) : k * (width + GAP) + width] = x[k]
    rows = wide.permute(1, 2, 0).contiguous().numpy()
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", wide.shape[2], height, 8, 4 if channels == 2 else 6, 0, 0, 0)
    parts = (_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(raw, 9)), _chunk(b"IEND", b""))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def _chunk(kind: bytes, held: bytes) -> bytes:
    return struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
