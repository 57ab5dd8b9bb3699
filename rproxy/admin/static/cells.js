// The cells of a row of the table of back-ends.

import * as charts from "./charts.js";
import { attribute, button, make, show } from "./dom.js";
import * as format from "./format.js";

const PERCENT = { cpu: "cpu", memory: "memory", queue: "load" };

/** Its state, and since when. */
const sinceText = ({ row, since }) => row.state + (since === null ? "" : ` since ${format.timeSince(since)}`);
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
export const CELLS = {
  backend: {
    make: (entry) => {
      const name = button(entry.name, () => {}, "name");
      name.tabIndex = -1;
      return [make("i", "dot"), name, " ", make("span", "note", "")];
    },
    write: (cell, entry) => {
      const { row, name } = entry;
      const [, opener, , note] = cell.childNodes;
      show(opener, name);
      const why = row.passed_over || row.said || "";
      const figures = [row.full ? "full" : row.state, format.significant(row.score), `${format.milliseconds(row.srtt_ms ?? row.rtt_ms)} ms`];
      show(note, why || (row.state === "up" ? figures.join(" · ") : sinceText(entry)));
      attribute(opener, "title", name);
      attribute(note, "data-why", why && "yes");
      attribute(note, "title", why);
    },
  },
  service: figure(({ row }) => row.service),
  state: {
    make: () => [make("span", "pill", "")],
    write: (cell, entry) => {
      const { row } = entry;
      const passed = row.state === "up" && row.passed_over;
      show(cell.firstChild, row.full ? "full" : row.state);
      attribute(cell.firstChild, "data-state", row.full ? "full" : passed ? "passed-over" : row.state);
      attribute(cell.firstChild, "title", [sinceText(entry), row.passed_over].filter(Boolean).join(": "));
    },
  },
  since: figure(({ since }) => (since === null ? "–" : format.timeSince(since))),
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
