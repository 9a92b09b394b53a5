"""A browser for the tests of the page: Debian's chromium, driven by Playwright, which downloads none of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil

INSIST = "TEMPERING_NEEDS_BROWSER"
"""Set to 1, a missing browser is a failure and not a reason to skip."""

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The browser's path, where there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def lacking() -> str:
    """Why the page cannot be tried in a browser here, as a sentence that says what to do; nothing where it can."""
    if importlib.util.find_spec("playwright") is None:
        return "the page was not tried in a browser: playwright is missing (make setup)"
    if executable() is None:
        return "the page was not tried in a browser: chromium is missing (apt-get install chromium)"
    return ""


def insisted() -> bool:
    """Whether the tests must not be skipped."""
    return os.environ.get(INSIST, "") not in ("", "0")


CONTRAST = """
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const paper = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = ([r, g, b]) =>
    [r, g, b]
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || element.closest("script, template, style, option")) continue;
    if (!element.checkVisibility({ checkVisibilityCSS: true }) || element.closest("[aria-hidden=true]")) continue;
    const style = getComputedStyle(element);
    const below = paper(element);
    const ink = over(rgba(element.closest("svg") ? style.fill : style.color), below);
    const [dim, bright] = [light(ink), light(below)].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dim + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 40)}`);
  }
  return found;
}
"""
"""What text of a page has a contrast below 4.5 to what lies behind it; backgrounds are laid over each other as the browser does."""
