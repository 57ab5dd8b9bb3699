// The table of back-ends: filter, order and cells. Only rows that are on the screen are written to.

import * as charts from "./charts.js";
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
};
const PERCENT = { cpu: "cpu", memory: "memory", queue: "load" };

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
    if (matching <= this.shown.length) return $("more").replaceChildren(text);
    const all = button(`Show all ${format.count(matching)}`, () => {
      this.limit = Infinity;
      this.arrange();
    });
    return $("more").replaceChildren(`${format.count(this.shown.length)} of ${format.count(matching)} are shown. `, all);
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

  focus(entry) {
    if (!entry?.element) return;
    this.activate(entry);
    entry.element.querySelector("button").focus();
    entry.element.scrollIntoView({ block: "nearest" });
  }
}

const figure = (text) => ({ write: (cell, entry) => show(cell, text(entry)) });

function percent(name) {
  return {
    make: () => [make("span", "value", ""), charts.bar()],
    write: (cell, { row }) => {
      const value = row[name];
      show(cell.firstChild, value == null ? "–" : String(Math.round(value)));
      charts.fill(cell.lastChild, (value || 0) / 100, charts.levelOf(value));
    },
  };
}

/** By key of a column: what its cell consists of, and how a row is written into it. */
const CELLS = {
  backend: {
    make: (entry) => {
      const name = button(entry.name, () => {}, "name");
      name.tabIndex = -1;
      return [make("i", "dot"), name, make("span", "note", "")];
    },
    write: (cell, { row, name }) => {
      const [, opener, note] = cell.childNodes;
      show(opener, name);
      const why = row.passed_over || row.said || "";
      const figures = [row.state, format.significant(row.score), `${format.milliseconds((row.srtt_ms ?? row.rtt_ms))} ms`];
      show(note, why || figures.join(" · "));
      attribute(opener, "title", name);
      attribute(note, "data-why", why && "yes");
      attribute(note, "title", why);
    },
  },
  service: figure(({ row }) => row.service),
  state: {
    make: () => [make("span", "pill", "")],
    write: (cell, { row }) => {
      show(cell.firstChild, row.full ? "full" : row.state);
      attribute(cell.firstChild, "data-state", row.full ? "full" : row.state);
      attribute(cell.firstChild, "title", row.passed_over);
    },
  },
  score: {
    make: () => [charts.columns(), make("span", "value", "")],
    write: (cell, { row }, table) => {
      const scale = table.scales.get(row.service) || {};
      const terms = Object.entries(row.terms || {});
      charts.fillColumns(cell.firstChild, terms.map(([name, value]) => (scale[name] ? Math.abs(value || 0) / scale[name] : 0)));
      show(cell.lastChild, format.significant(row.score));
      attribute(cell, "title", terms.map(([name, value]) => `${name}: ${format.significant(value)}`).join("\n"));
    },
  },
  rtt: figure(({ row }) => format.milliseconds((row.srtt_ms ?? row.rtt_ms))),
  loss: figure(({ row }) => format.percentage(row.loss)),
  ...Object.fromEntries(Object.entries(PERCENT).map(([key, name]) => [key, percent(name)])),
  sessions: {
    make: () => [make("span", "value", ""), make("small", "", "")],
    write: (cell, { row }) => {
      show(cell.firstChild, format.count(row.connections));
      show(cell.lastChild, row.max_connections ? `/${format.count(row.max_connections)}` : "");
    },
  },
  recent: {
    make: () => [charts.sparkline()],
    write: (cell, entry) => charts.draw(cell.firstChild, entry.series.sessions, 4),
  },
  rate: figure((entry) => format.rate(entry.rate())),
  total: figure(({ row }) => format.count(row.total)),
  bytes: {
    write: (cell, { row }) => {
      const { bytes_up: up, bytes_down: down } = row;
      show(cell, up == null ? "–" : format.bytes(up + down));
      attribute(cell, "title", up == null ? null : `${format.bytes(down)} to clients, ${format.bytes(up)} from them`);
    },
  },
  weight: figure(({ row }) => String(row.weight)),
  act: {
    make: () => [button("", () => {}, "small")],
    write: (cell, { row, name }) => {
      const ready = row.administration && row.administration !== "ready";
      show(cell.firstChild, ready ? "Ready" : "Drain");
      cell.firstChild.dataset.verb = ready ? "ready" : "drain";
      attribute(cell.firstChild, "aria-label", `${ready ? "Ready" : "Drain"} ${name}`);
      cell.firstChild.tabIndex = -1;
    },
  },
};
