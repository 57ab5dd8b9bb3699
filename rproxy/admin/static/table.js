// The table of back-ends: filter, order and cells. Only rows that are on the screen are written to.

import { CELLS } from "./cells.js";
import { $, attribute, button, make, show } from "./dom.js";
import * as format from "./format.js";

const PAGE = 200; // rows shown before one asks for more
const ORDER_EVERY_MS = 5000; // rows do not change places more often than this by themselves
const IN_USE_MS = 10000;
const GROUPS = [
  ["all", "All", () => true],
  ["used", "In use", (row) => row.eligible],
  ["drain", "Drained", (row) => row.state === "draining" || row.state === "maint"],
  ["down", "Down", (row) => row.state === "down"],
];
const TROUBLE = ["down", "suspect", "draining", "maint", "departed", "registered", "up"];

const last = (value) => value ?? -Infinity;
/** By key of a column: what it is sorted by, and whether the largest comes first. */
const ORDERS = {
  backend: [(entry) => entry.order, false],
  service: [(entry) => `${entry.row.service} ${entry.order}`, false],
  state: [(entry) => TROUBLE.indexOf(entry.row.state), false],
  score: [({ row }) => row.score ?? Infinity, false],
  rtt: [({ row }) => last((row.srtt_ms ?? row.rtt_ms)), true],
  loss: [({ row }) => last(row.loss), true],
  cpu: [({ row }) => last(row.cpu), true],
  memory: [({ row }) => last(row.memory), true],
  queue: [({ row }) => last(row.load), true],
  sessions: [({ row }) => row.connections, true],
  recent: [({ row }) => row.connections, true],
  rate: [(entry) => entry.rate(), true],
  total: [({ row }) => row.total, true],
  bytes: [({ row }) => (row.bytes_up || 0) + (row.bytes_down || 0), true],
  weight: [({ row }) => row.weight, true],
  since: [({ since }) => last(since), true],
};

export class Table {
  /** `pool` has the entries; `on.open(entry)` and `on.act(entry, verb)` are what clicks and keys do. */
  constructor(pool, on) {
    this.pool = pool;
    this.on = on;
    this.text = "";
    this.service = "";
    this.group = "all";
    this.limit = PAGE;
    this.key = "backend";
    this.descending = false;
    this.shown = []; // entries in the order of their rows
    this.orderedAt = 0;
    this.usedAt = -Infinity; // when the pointer or a key was last used in a row
    this.selected = null;
    this.active = null; // the entry whose button can be reached by Tab
    this.body = document.querySelector("#rows tbody");
    this.heads = [...document.querySelectorAll("#rows th")];
    this.seen = new IntersectionObserver((changes) => this.scrolled(changes), { rootMargin: "200px" });
    this.entries = new WeakMap(); // by row element
    this.scales = new Map(); // by service: the largest value of each term
    this.makeHeads();
    this.makeTools();
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    for (const name of ["pointermove", "keydown", "focusin"]) {
      this.body.addEventListener(name, () => (this.usedAt = performance.now()), { passive: true });
    }
  }

  makeHeads() {
    for (const head of this.heads) {
      const key = head.dataset.key;
      if (!ORDERS[key]) continue;
      const name = head.textContent;
      head.replaceChildren(button(name, () => this.sortBy(key)));
      const option = make("option", "", `Sort: ${name}`);
      option.value = key;
      $("sort").append(option);
    }
    this.markHeads();
  }

  makeTools() {
    this.groups = GROUPS.map(([id, name, test]) => {
      const number = make("span", "number", "0");
      const chip = button("", () => this.choose(id), "chip");
      chip.append(name, number);
      chip.dataset.group = id;
      $("states").append(chip);
      return { id, test, number, chip };
    });
    this.markGroups();
    $("filter").addEventListener("input", () => {
      this.text = $("filter").value.trim().toLowerCase();
      this.limit = PAGE;
      this.arrange();
    });
    this.moreText = make("span", "", "");
    this.moreButton = button("", () => {
      this.limit = Infinity;
      this.arrange();
    });
    $("more").replaceChildren(this.moreText, this.moreButton);
    $("service-filter").addEventListener("change", () => {
      this.service = $("service-filter").value;
      this.arrange();
    });
    $("sort").addEventListener("change", () => this.sortBy($("sort").value));
  }

  choose(id) {
    this.group = id;
    this.limit = PAGE;
    this.markGroups();
    this.arrange();
  }

  markGroups() {
    for (const { id, chip } of this.groups) chip.setAttribute("aria-pressed", String(id === this.group));
  }

  sortBy(key) {
    if (key === this.key) this.descending = !this.descending;
    else [this.key, this.descending] = [key, ORDERS[key][1]];
    this.markHeads();
    this.arrange();
  }

  markHeads() {
    for (const head of this.heads) {
      const sorted = head.dataset.key === this.key;
      attribute(head, "aria-sort", sorted ? (this.descending ? "descending" : "ascending") : null);
    }
    $("sort").value = this.key;
  }

  /** Rows have changed, come or gone. */
  update() {
    this.count();
    this.rescale();
    const waited = performance.now() - this.orderedAt > ORDER_EVERY_MS;
    if ((this.pool.changed || waited) && !this.isInUse()) this.arrange();
    else this.render();
  }

  /** Whether somebody is about to use a row: it must not move away from under the pointer or the focus. */
  isInUse() {
    const near = this.body.matches(":hover") || this.body.contains(document.activeElement);
    return near && performance.now() - this.usedAt < IN_USE_MS;
  }

  count() {
    const rows = [...this.pool.entries.values()].filter((entry) => !this.service || entry.row.service === this.service);
    for (const { test, number } of this.groups) show(number, String(rows.filter((entry) => test(entry.row)).length));
  }

  rescale() {
    this.scales.clear();
    for (const { row } of this.pool.entries.values()) {
      let scale = this.scales.get(row.service);
      if (!scale) this.scales.set(row.service, (scale = {}));
      for (const name in row.terms) scale[name] = Math.max(scale[name] || 0, Math.abs(row.terms[name]) || 0);
    }
  }

  /** Filter and sort, and put the rows in that order. */
  arrange() {
    this.pool.changed = false;
    this.orderedAt = performance.now();
    const { test } = this.groups.find(({ id }) => id === this.group);
    const words = this.text.split(/\s+/).filter(Boolean);
    const matching = [...this.pool.entries.values()].filter(
      (entry) =>
        test(entry.row) &&
        (!this.service || entry.row.service === this.service) &&
        words.every((word) => entry.text().includes(word)),
    );
    const [value] = ORDERS[this.key];
    const keyed = matching.map((entry) => [value(entry), entry]);
    const sign = this.descending ? -1 : 1;
    keyed.sort(([one, first], [other, second]) =>
      one < other ? -sign : one > other ? sign : first.order < second.order ? -1 : 1,
    );
    const before = this.shown;
    this.shown = keyed.slice(0, this.limit).map(([, entry]) => entry);
    this.place(before);
    this.more(matching.length);
    this.render();
  }

  place(before) {
    const kept = new Set(this.shown);
    for (const entry of before) {
      if (!kept.has(entry) && entry.element) {
        this.seen.unobserve(entry.element);
        entry.element.remove();
        entry.element = null;
        entry.cells = null;
      }
    }
    if (this.first === undefined) this.body.replaceChildren(); // the rows that came with the page
    this.first = false;
    let at = this.body.firstElementChild;
    for (const entry of this.shown) {
      if (!entry.element) this.makeRow(entry);
      if (entry.element === at) at = at.nextElementSibling;
      else this.body.insertBefore(entry.element, at);
    }
    if (!this.active?.element) this.activate(this.shown[0] || null);
  }

  more(matching) {
    const text = !this.pool.entries.size ? "No back-end is known." : !matching ? "No back-end matches." : "";
    const cut = matching > this.shown.length;
    show(this.moreText, cut ? `${format.count(this.shown.length)} of ${format.count(matching)} are shown. ` : text);
    show(this.moreButton, `Show all ${format.count(matching)}`);
    this.moreButton.hidden = !cut;
    $("more").hidden = !cut && !text;
  }

  makeRow(entry) {
    const row = make("tr");
    entry.cells = {};
    for (const head of this.heads) {
      const cell = make("td", head.className);
      const make_ = CELLS[head.dataset.key]?.make;
      if (make_) cell.append(...make_(entry));
      entry.cells[head.dataset.key] = cell;
      row.append(cell);
    }
    entry.element = row;
    entry.dirty = true;
    entry.onScreen = true; // until the observer says otherwise
    this.entries.set(row, entry);
    this.seen.observe(row);
  }

  scrolled(changes) {
    for (const { target, isIntersecting } of changes) {
      const entry = this.entries.get(target);
      entry.onScreen = isIntersecting;
      if (isIntersecting && entry.dirty && entry.element) this.write(entry);
    }
  }

  render() {
    for (const entry of this.shown) if (entry.dirty && entry.onScreen) this.write(entry);
  }

  write(entry) {
    entry.dirty = false;
    attribute(entry.element, "data-state", entry.row.state);
    attribute(entry.element, "aria-current", this.selected === entry ? "true" : null);
    for (const key in CELLS) CELLS[key].write(entry.cells[key], entry, this);
  }

  /** Have Tab lead to this entry's button. */
  activate(entry) {
    if (this.active?.element) this.active.element.querySelector("button").tabIndex = -1;
    this.active = entry;
    if (entry?.element) entry.element.querySelector("button").tabIndex = 0;
  }

  clicked(event) {
    const row = event.target.closest("tr");
    const entry = row && this.entries.get(row);
    if (!entry || getSelection().toString()) return;
    this.activate(entry);
    const verb = event.target.closest("[data-verb]")?.dataset.verb;
    if (verb) this.on.act(entry, verb);
    else this.on.open(entry);
  }

  pressed(event) {
    const entry = this.entries.get(event.target.closest("tr"));
    if (!entry || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
    const verb = { d: "drain", m: "maint", r: "ready", w: "weight" }[event.key];
    if (step) {
      const next = this.shown[this.shown.indexOf(entry) + step];
      if (next) this.focus(next);
    } else if (verb) this.on.act(entry, verb);
    else return;
    event.preventDefault();
  }

  /** Mark the row of the entry whose details are shown, or of none. */
  select(entry) {
    for (const each of [this.selected, entry]) if (each) each.dirty = true;
    this.selected = entry;
    this.render();
  }

  focus(entry) {
    if (!entry?.element) return;
    this.activate(entry);
    entry.element.querySelector("button").focus();
    entry.element.scrollIntoView({ block: "nearest" });
  }
}
