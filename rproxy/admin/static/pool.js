// What is known of the services and their back-ends, as the stream tells it, with series of the last ten minutes.

import { POINTS } from "./charts.js";
import { nameOf } from "./format.js";

const RATE_MS = 10000; // rates are over as long
const SAME_S = 2; // times of a change that differ by less are of one

const keyOf = (service, name) => `${service}/${name}`;
const empty = () => new Array(POINTS).fill(null);

/** Puts addresses in their numerical order, when compared as texts. */
function sortable(name) {
  return name.replace(/\d+/g, (digits) => digits.padStart(5, "0"));
}

/** One back-end of a service. */
class Entry {
  constructor(row) {
    this.name = nameOf(row);
    this.key = keyOf(row.service, this.name);
    this.order = sortable(this.name);
    this.series = { sessions: empty(), new: empty(), cpu: empty() };
    this.marks = [[performance.now(), row.total]]; // times, and how many sessions there had been
    this.sampled = row.total;
    this.element = null;
    this.cells = null;
    this.onScreen = false;
    this.take(row);
  }

  take(row) {
    if (row.eligible === undefined) row.eligible = row.state === "up";
    this.row = row;
    this.takenAt = performance.now();
    const since = row.since == null ? null : Date.now() / 1000 - row.since;
    if (since === null || !(Math.abs(since - this.since) < SAME_S)) this.since = since; // Unix time of its state
    this.dirty = true;
    const mark = this.marks[this.marks.length - 1];
    if (mark[1] !== row.total) this.marks.push([performance.now(), row.total]);
  }

  /** A time of the row that grows while nothing else changes, in s, now; null if it is not known. */
  age(name) {
    const age = this.row[name];
    return age == null ? null : age + (performance.now() - this.takenAt) / 1000;
  }

  /** How long it was down so far, in s. */
  downFor() {
    return (this.row.down_s || 0) + (this.row.state === "down" ? this.age("since") || 0 : 0);
  }

  /** New sessions a second. */
  rate() {
    const since = performance.now() - RATE_MS;
    while (this.marks.length > 1 && this.marks[1][0] <= since) this.marks.shift();
    const [at, total] = this.marks[0];
    const span = Math.min(performance.now() - at, RATE_MS);
    return span < 1000 ? 0 : Math.max(0, (1000 * (this.row.total - total)) / Math.max(span, RATE_MS / 2));
  }

  /** What the filter looks at. */
  text() {
    const { service, state, passed_over: passed, administration } = this.row;
    return `${this.name} ${service} ${state} ${administration || ""} ${passed || ""}`.toLowerCase();
  }

  /** Add a point to its series. Returns how many sessions are new since the last one. */
  sample() {
    const added = Math.max(0, this.row.total - this.sampled);
    push(this.series.sessions, this.row.connections);
    push(this.series.new, added);
    push(this.series.cpu, this.row.cpu);
    this.sampled = this.row.total;
    this.dirty = true;
    return added;
  }
}

function push(series, value) {
  series.push(value ?? null);
  if (series.length > POINTS) series.shift();
}

export class Pool {
  constructor() {
    this.entries = new Map();
    this.services = [];
    this.series = new Map(); // by service
    this.changed = true; // whether back-ends have come or gone since it was last set to false
    this.complete = false; // whether the next message has all rows
    this.sampledAt = 0;
    this.stepMs = 10000; // between two points of a series
  }

  /** A new connection of the stream: its first message has all rows. */
  opened() {
    this.complete = true;
  }

  /** A message of the stream. */
  take({ services, backends, gone }) {
    if (services) this.takeServices(services);
    const named = new Set();
    for (const row of backends || []) {
      const key = keyOf(row.service, nameOf(row));
      named.add(key);
      const entry = this.entries.get(key);
      if (entry) entry.take(row);
      else {
        this.entries.set(key, new Entry(row));
        this.changed = true;
      }
    }
    const left = this.complete ? [...this.entries.keys()].filter((key) => !named.has(key)) : (gone || []).map(goneKey);
    this.complete = false;
    for (const key of left) this.changed = this.entries.delete(key) || this.changed;
  }

  takeServices(services) {
    this.services = services;
    const names = new Set(services.map(({ name }) => name));
    for (const name of this.series.keys()) if (!names.has(name)) this.series.delete(name);
  }

  /** Note the present values, if it is time. Returns whether it was. */
  sample() {
    const now = performance.now();
    if (now - this.sampledAt < this.stepMs) return false;
    this.sampledAt = now;
    const added = new Map();
    for (const entry of this.entries.values()) {
      const { service } = entry.row;
      added.set(service, (added.get(service) || 0) + entry.sample());
    }
    for (const { name, sessions } of this.services) {
      push(this.seriesOf(name).sessions, sessions);
      push(this.seriesOf(name).new, added.get(name) || 0);
    }
    return true;
  }

  seriesOf(service) {
    if (!this.series.has(service)) this.series.set(service, { sessions: empty(), new: empty() });
    return this.series.get(service);
  }

  /** The sum of a series of all services. */
  totals(name) {
    const all = this.services.map((service) => this.seriesOf(service.name)[name]);
    return empty().map((_, number) => all.reduce((sum, each) => (each[number] == null ? sum : (sum || 0) + each[number]), null));
  }

  /** The series that the proxy has kept: `/api/recent`. */
  restore(recent) {
    this.stepMs = 1000 * recent.every;
    this.sampledAt = performance.now() - Math.min(Date.now() - 1000 * recent.last, this.stepMs);
    for (const [name, series] of Object.entries(recent.services)) {
      this.series.set(name, { sessions: filled(series.sessions), new: filled(series.new) });
    }
    for (const [key, series] of Object.entries(recent.backends)) {
      const entry = this.entries.get(key);
      if (!entry) continue;
      for (const name of Object.keys(entry.series)) entry.series[name] = filled(series[name] || []);
      entry.dirty = true;
    }
  }

  /** New sessions a second, by service. */
  rates() {
    const rates = new Map();
    for (const entry of this.entries.values()) {
      const { service } = entry.row;
      rates.set(service, (rates.get(service) || 0) + entry.rate());
    }
    return rates;
  }
}

function filled(values) {
  return [...empty(), ...values].slice(-POINTS);
}

function goneKey(gone) {
  if (typeof gone === "string") return gone;
  return keyOf(gone.service, gone.backend || nameOf(gone));
}
