"""What keeps people from reading or using a page, as scripts can find it."""

from __future__ import annotations

from typing import Final

from tests.browser.chrome import Chrome

_FAINT: Final = """
const parse = (text) => {
  const canvas = (window.colours ||= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }));
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = text;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
};
const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
const background = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    const colour = parse(getComputedStyle(each).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255, 1]);
};
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const faint = new Set();
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const box = element.getBoundingClientRect();
  if (!own || !element.checkVisibility() || box.width < 2 || box.right < 0) continue;
  const below = background(element);
  const text = over(parse(getComputedStyle(element).color), below);
  const [one, other] = [luminance(text), luminance(below)].sort((a, b) => b - a);
  const contrast = (one + 0.05) / (other + 0.05);
  if (contrast < 4.5) faint.add(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 160)}`);
}
return [...faint];
"""

_UNNAMED: Final = """
const named = (element) =>
  element.getAttribute("aria-label") || element.labels?.length || element.innerText?.trim() || element.title ||
  element.getAttribute("aria-labelledby");
const selector = "button, input, select, a, table, dialog, [role=dialog], [role=region], [role=group], [role=img]";
return [...document.querySelectorAll(selector)]
  .filter((element) => element.checkVisibility() && !named(element)).map((element) => element.outerHTML.slice(0, 200));
"""

_WIDE: Final = """
const wide = [...document.querySelectorAll("body *")].filter((element) => {
  if (!element.checkVisibility() || element.closest(".scroll, .skip, .visually-hidden")) return false;
  return element.getBoundingClientRect().right > innerWidth + 1;
});
return document.documentElement.scrollWidth > innerWidth ? wide.map((each) => each.outerHTML.slice(0, 120)) : [];
"""


def faint_texts(page: Chrome) -> list[str]:
    """Visible texts whose contrast to what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""
    return list(page.run(_FAINT))


def unnamed_controls(page: Chrome) -> list[str]:
    """Visible controls, tables and regions that a screen reader has no name for."""
    return list(page.run(_UNNAMED))


def wide_elements(page: Chrome) -> list[str]:
    """What reaches beyond the right edge, if the page can be scrolled there."""
    return list(page.run(_WIDE))
