// Small helpers that write to the document only what has changed.

export const $ = (id) => document.getElementById(id);

/** A new element: `make("td", "figure", "12", child…)`. */
export function make(tag, classes = "", ...content) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...content);
  return element;
}

/** Show `text` in an element whose only child is a text node. */
export function show(element, text) {
  const node = element.firstChild;
  if (node === null) element.textContent = text;
  else if (node.data !== text) node.data = text;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === "") {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function button(text, act, classes = "") {
  const element = make("button", classes, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

/** Say something to the operator, and to screen readers; `undo`, if given, is offered as a button. */
export function notify(text, { failed = false, undo = null } = {}) {
  const toast = make("div", failed ? "toast failed" : "toast", make("span", "", text));
  const leave = () => toast.remove();
  if (undo) toast.append(button("Undo", () => { leave(); undo(); }));
  const close = button("×", leave, "close");
  close.setAttribute("aria-label", "Dismiss");
  toast.append(close);
  $("toasts").append(toast);
  while ($("toasts").childElementCount > 4) $("toasts").firstChild.remove();
  setTimeout(leave, failed ? 20000 : 8000);
}
