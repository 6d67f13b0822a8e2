"""An MP4 that plays while it is made: fragments of one frame, for a browser's MediaSource or a player on a pipe."""

from collections.abc import Mapping
from fractions import Fraction
from io import RawIOBase
from typing import Any

import av
import numpy as np
import soxr
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from asymtalker.serve.session import Moment
from asymtalker.timeline import FPS, SAMPLE_RATE

MIME = 'video/mp4; codecs="avc1.42C01F, mp4a.40.2"'
"""What the stream is, for ``MediaSource.isTypeSupported``."""
AAC_RATE = 48_000
"""At which AAC holds back a fiftieth of a second; at 16 kHz it would be three."""
FRAGMENT = "10000"
"""Microseconds after which a fragment ends, less than a frame: it is whole when the next frame comes."""
KEYFRAMES = FPS
"""Frames from one that needs none before it to the next."""


class _Sink(RawIOBase):
    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


class Fragments:
    """Encodes moments as they come; not for several threads at once.

    Args:
        size: height and width, both even.
        metadata: tags of the file.
    """

    def __init__(self, size: tuple[int, int], metadata: Mapping[str, str] | None = None):
        self._sink = _Sink()
        options = {"movflags": "empty_moov+default_base_moof", "frag_duration": FRAGMENT}
        self._container: Any = av.open(self._sink, "w", format="mp4", options=options)
        self._container.metadata.update(metadata or {})
        options = {"preset": "superfast", "tune": "zerolatency", "crf": "20", "profile": "baseline"}
        self._video = self._container.add_stream("libx264", rate=FPS, options=options)
        self._video.height, self._video.width, self._video.pix_fmt = *size, "yuv420p"
        context = self._video.codec_context
        context.gop_size, context.color_range = KEYFRAMES, 1
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        self._audio = self._container.add_stream("aac", rate=AAC_RATE, layout="mono")
        self._reformat = VideoReformatter()
        self._resample = soxr.ResampleStream(SAMPLE_RATE, AAC_RATE, 1, dtype="float32", quality="LQ")
        self._frames = self._samples = 0

    def add(self, moment: Moment) -> bytes:
        """What comes next of the file; the first bytes also say what it holds."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moment.picture), format="rgb24")
        frame = self._reformat.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self._frames, Fraction(1, FPS)
        self._frames += 1
        self._container.mux(self._video.encode(frame))
        self._sound(self._resample.resample_chunk(moment.sound))
        return self._taken()

    def _sound(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        sound = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = AAC_RATE, self._samples, Fraction(1, AAC_RATE)
        self._samples += len(samples)
        self._container.mux(self._audio.encode(sound))

    def close(self) -> bytes:
        """The end of the file."""
        self._sound(self._resample.resample_chunk(np.zeros(0, np.float32), last=True))
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))
        self._container.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = bytes(self._sink.data)
        self._sink.data.clear()
        return data
