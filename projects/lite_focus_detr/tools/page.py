"""Serves a page on this machine to try detectors on images of one's own.

    lite-focus-detr page --weights PATH [PATH ...] \
        [--config-file NAME_OR_PATH ...] [--port 7860] [--opts KEY VALUE ...]

Upload an image: every detector shows its boxes, the tokens that its encoder updates, where its
attention samples, and how long its parts take, see ``compare``. The share of tokens that encoders
keep is chosen on the page, and the image is detected in again. Only this machine can reach the
page, and the page reaches nothing else. It needs Gradio: pip install 'lite-focus-detr[page]'
"""

from __future__ import annotations

import argparse
import html
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import read_image
from ..engine import user_errors
from .compare import ComparisonOptions, add_comparison_arguments

HOST = "127.0.0.1"
#: Images with a shorter side have nothing that could be detected.
MIN_SIDE = 8
_KEEP_SECONDS = 3600  # Uploads are deleted after an hour, and when the server ends.
_MAX_UPLOAD = "50mb"
_HINT = "Upload an image to see what the detectors find in it."
# A frame keeps the styles of the two pages apart; it becomes as high as what it shows.
_FRAME = """<iframe title="Comparison" srcdoc="{}" style="width: 100%; height: 70vh; border: 0"
onload="const page = this.contentDocument.documentElement;
page.querySelector('body').style.padding = '4px';
new ResizeObserver(() => {{ this.style.height = page.offsetHeight + 'px' }}).observe(page)">
</iframe>"""
_STYLE = """
.gradio-container .html-container { padding: 0; }
@media (max-width: 700px) { .gradio-container .main { padding: 12px; } }
"""
_COLORS = {
    "body_text_color": "#1b1f24",
    "body_text_color_subdued": "#57606a",
    "block_label_text_color": "#1b1f24",
    "block_title_text_color": "#1b1f24",
    "link_text_color": "#0b5cad",
    "slider_color": "#0b5cad",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command until it is interrupted."""
    args = _parser().parse_args(arguments)
    with user_errors():
        _import_gradio()
        page = build_page(DetectorView(ComparisonOptions.from_arguments(args)))
        address = serve(page, args.port)
    print(f"{address} shows the page, to this machine alone; Ctrl-C ends it", flush=True)
    page.block_thread()


class DetectorView:
    """What the page shows: the comparison of some detectors with a budget."""

    def __init__(self, options: ComparisonOptions) -> None:
        """
        Args:
            options: what is compared, and how.
        """
        self.options = options
        models = (predictor.model for predictor in options.predictors)
        self.selective = [model for model in models if model.encoder.keep_ratios]

    def keep_ratio(self) -> float | None:
        """The largest configured budget of the detectors; None: all update all tokens."""
        budgets = (model.encoder.keep_ratios for model in self.selective)
        return max((sum(ratios) / len(ratios) for ratios in budgets), default=None)

    def show(self, path: str | None, keep_ratio: float | None) -> tuple[str, str]:
        """Detect in an image.

        Args:
            path: of an image file; None: nothing has been uploaded.
            keep_ratio: for all detectors that have a budget; None: each as configured.

        Returns:
            a message, empty where all went well, and the HTML of the comparison.
        """
        if path is None:
            return _HINT, ""
        name = Path(path).name
        try:
            height, width = read_image(path, "RGB").shape[:2]
        except RuntimeError as error:
            return f"{name} cannot be shown: {str(error).replace(path, name)}", ""
        if min(height, width) < MIN_SIDE:
            least = f"the shorter side needs at least {MIN_SIDE}"
            return f"{name} is too small, {width} x {height} pixels: {least}", ""
        for model in self.selective:
            model.set_budget(keep_ratio)
        return "", _FRAME.format(html.escape(self.options.compare(path), quote=True))


def build_page(view: DetectorView) -> Any:
    """The page as Gradio's ``Blocks``."""
    gradio = _import_gradio()
    keep_ratio = view.keep_ratio()

    def show(path: str | None, chosen: float | None) -> tuple[str, str]:
        message, comparison = view.show(path, chosen)
        return _message(message), comparison

    options = {"analytics_enabled": False, "delete_cache": (_KEEP_SECONDS, _KEEP_SECONDS)}
    with gradio.Blocks(title="Detectors", fill_width=True, **options) as page:
        gradio.Markdown("# Detectors")
        # None until the slider has moved: detectors may be configured with different budgets.
        chosen = gradio.State(None)
        with gradio.Row():
            upload = gradio.File(label="Image", height=130)
            slider = gradio.Slider(
                0.05,
                1,
                value=keep_ratio or 1,
                step=0.01,
                label="Keep ratio: share of the tokens that selective encoders update",
                visible=keep_ratio is not None,
                buttons=[],
            )
        message = gradio.HTML(_message(_HINT), js_on_load=None)
        comparison = gradio.HTML(js_on_load=None)
        slider.input(
            lambda ratio: ratio, slider, chosen, show_progress="hidden", api_visibility="private"
        )
        gradio.on(
            [upload.change, chosen.change],
            show,
            [upload, chosen],
            [message, comparison],
            # While one image is detected in, the slider may move on: its last place counts.
            trigger_mode="always_last",
            show_progress="minimal",
            api_visibility="private",
        )
    page.queue(default_concurrency_limit=1)
    return page


def serve(page: Any, port: int) -> str:
    """Serve a page to this machine, in the background.

    Args:
        page: of :func:`build_page`.
        port: 0: any that is free.

    Returns:
        the address of the page.

    Raises:
        ValueError: the port is taken.
    """
    gradio = _import_gradio()
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port or _free_port(),
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=_MAX_UPLOAD,
            theme=theme.set(**_COLORS),
            css=_STYLE,
            js="() => document.body.classList.remove('dark')",  # The comparison is bright.
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
        )
    except OSError as error:
        raise ValueError(f"--port {port} cannot be used, take another, or 0 for any") from error
    return str(address)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _message(text: str) -> str:
    return f'<p role="status" id="message">{html.escape(text)}</p>'


def _import_gradio() -> Any:
    """Gradio, which is told before it starts that nobody wants to hear of it.

    Raises:
        ValueError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ValueError("the page needs Gradio: pip install 'lite-focus-detr[page]'") from error
    return gradio


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=7860, help="default %(default)s; 0: any")
    add_comparison_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
