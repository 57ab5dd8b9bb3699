// Bars and sparklines, drawn with attributes of SVG elements alone: the page's policy forbids inline styles.

const SVG = "http://www.w3.org/2000/svg";
export const POINTS = 60;
const HEIGHT = 20;

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** A bar that `fill` fills. */
export function bar() {
  const frame = svg("svg", { class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  frame.append(svg("rect", { width: 0, height: 1 }));
  return frame;
}

/** Fill a `bar` to 0..1; `level` is a class: "warm", "hot" or none. */
export function fill(frame, fraction, level = "") {
  const rect = frame.firstChild;
  const width = String(Math.round(Math.min(Math.max(fraction || 0, 0), 1) * 100));
  if (rect.getAttribute("width") !== width) rect.setAttribute("width", width);
  if (rect.getAttribute("class") !== level) rect.setAttribute("class", level);
}

/** How serious a percentage is. */
export const levelOf = (percent) => (percent >= 95 ? "hot" : percent >= 80 ? "warm" : "");

/** Small columns side by side, `fractions` of the height each. */
export function columns() {
  return svg("svg", { class: "columns", viewBox: `0 0 48 ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
}

export function fillColumns(frame, fractions) {
  const shown = fractions.slice(0, 8);
  while (frame.childNodes.length > shown.length) frame.lastChild.remove();
  shown.forEach((fraction, number) => {
    const rect = frame.childNodes[number] || frame.appendChild(svg("rect", { x: number * 6, width: 4 }));
    const height = Math.max(1, Math.min(fraction, 1) * HEIGHT);
    const text = height.toFixed(1);
    if (rect.getAttribute("height") !== text) {
      rect.setAttribute("height", text);
      rect.setAttribute("y", (HEIGHT - height).toFixed(1));
    }
  });
}

/** A line over the last ten minutes, with the area below it. */
export function sparkline(label = "") {
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  const frame = svg("svg", { class: "spark", viewBox: `0 0 ${POINTS - 1} ${HEIGHT}`, preserveAspectRatio: "none", ...named });
  frame.append(svg("path", { class: "area" }), svg("path", { class: "line" }));
  return frame;
}

/** Draw `values`, the newest last, null for what is not known; `most` is the least value of the upper edge. */
export function draw(frame, values, most = 1) {
  const top = Math.max(most, ...values.map((value) => value ?? 0));
  const start = POINTS - values.length;
  let line = "", area = "", open = -1;
  const close = (x) => {
    if (open >= 0) area += `L${x} ${HEIGHT}L${open} ${HEIGHT}Z`;
    open = -1;
  };
  values.forEach((value, number) => {
    const x = start + number;
    if (value == null) return close(x - 1);
    const y = (HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(1);
    line += `${open < 0 ? "M" : "L"}${x} ${y}`;
    area += `${open < 0 ? "M" : "L"}${x} ${y}`;
    if (open < 0) open = x;
  });
  close(POINTS - 1);
  frame.firstChild.setAttribute("d", area);
  frame.lastChild.setAttribute("d", line);
}
