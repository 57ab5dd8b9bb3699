// The live page: follows the stream, and shows services, back-ends, events, doubts and the shadow policy.

import { act, askForToken, showKeys } from "./actions.js";
import * as charts from "./charts.js";
import { follow, get, Refused } from "./connection.js";
import { Details } from "./details.js";
import { $, attribute, make, show } from "./dom.js";
import * as format from "./format.js";
import { Pool } from "./pool.js";
import { Table } from "./table.js";

const EVENTS = 200; // shown
const EVENTS_KEPT = 2000;
const EVENT_S = 3600;
const SLOW_MS = 10000; // how often doubts and the shadow policy are asked for
const FAILED = ["backend-reset", "backend-down", "no-backend", "unreachable", "queue-full", "queue-timeout"];
const THEME = "rproxy-theme";

document.documentElement.classList.add("live");
const pool = new Pool();
const happenings = []; // the newest first
const table = new Table(pool, {
  open: (entry) => details.open(entry),
  act: (entry, verb) => {
    if (verb !== "weight") return act(entry, verb);
    details.open(entry);
    return details.focusWeight();
  },
});
const details = new Details(() => happenings, (service) => table.scales.get(service) || {});

// ---------------------------------------------------------------- services and totals

const ended = (service) => Object.values(service.counters?.sessions || {}).reduce((sum, number) => sum + number, 0);
const failed = (service) => FAILED.reduce((sum, name) => sum + (service.counters?.sessions?.[name] || 0), 0);
const sum = (value) => pool.services.reduce((total, service) => total + value(service), 0);

function stateOf(service) {
  if (service.leaving) return ["leaving", "draining"];
  if (!service.eligible) return [service.full ? "full" : "no back-end", service.full ? "suspect" : "down"];
  return service.panic ? ["panic", "suspect"] : ["serving", "up"];
}

function showServices() {
  const body = $("services").tBodies[0];
  const heads = [...$("services").tHead.rows[0].cells];
  const rates = pool.rates();
  if (body.rows.length !== pool.services.length || !body.querySelector(".spark")) {
    body.replaceChildren(
      ...pool.services.map(() => {
        const row = make("tr", "", ...heads.map((head) => make("td", head.className)));
        row.cells[0].append(make("b", ""));
        row.cells[1].append(make("span", "pill"));
        row.cells[4].append(charts.sparkline());
        return row;
      }),
    );
  }
  pool.services.forEach((service, number) => {
    const cells = body.rows[number].cells;
    const [state, colour] = stateOf(service);
    const { up, down } = service.counters?.bytes || {};
    show(cells[0].firstChild, service.name);
    show(cells[1].firstChild, state);
    attribute(cells[1].firstChild, "data-state", colour);
    charts.draw(cells[4].firstChild, pool.seriesOf(service.name), 4);
    const texts = {
      2: `${service.eligible} of ${service.known}`,
      3: format.count(service.sessions),
      5: format.rate(rates.get(service.name) || 0),
      6: service.waiting ? `${format.count(service.waiting)} · ${format.duration(service.waiting_s)}` : "0",
      7: format.count(ended(service)),
      8: format.count(failed(service)),
      9: format.bytes(down),
      10: format.bytes(up),
    };
    for (const index in texts) show(cells[index], texts[index]);
    attribute(cells[8], "title", FAILED.map((name) => [name, service.counters?.sessions?.[name]]).filter(([, count]) => count).map(([name, count]) => `${name}: ${count}`).join("\n"));
  });
}

function showTotals() {
  const rate = [...pool.rates().values()].reduce((total, each) => total + each, 0);
  const waiting = sum(({ waiting }) => waiting);
  const [all, bad] = [sum(ended), sum(failed)];
  show($("tile-sessions"), format.count(sum(({ sessions }) => sessions)));
  show($("tile-rate"), format.rate(rate));
  show($("tile-eligible"), format.count(sum(({ eligible }) => eligible)));
  show($("tile-known"), `of ${format.count(sum(({ known }) => known))}`);
  show($("tile-waiting"), format.count(waiting));
  show($("tile-waiting-s"), waiting ? `up to ${format.duration(Math.max(...pool.services.map((service) => service.waiting_s || 0)))}` : "");
  show($("tile-down"), format.bytes(sum(({ counters }) => counters?.bytes?.down || 0)));
  show($("tile-failed"), format.count(bad));
  show($("tile-failed-share"), `of ${format.count(all)}`);
  attribute($("tile-eligible").closest("div"), "data-state", pool.services.some(({ eligible }) => !eligible) ? "down" : null);
  document.title = `${sum(({ eligible }) => eligible)}/${sum(({ known }) => known)} rproxy`;
}

function showServiceFilter() {
  const names = pool.services.map(({ name }) => name);
  const select = $("service-filter");
  if (select.options.length !== names.length + 1) {
    select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name)));
  }
  document.body.classList.toggle("one-service", names.length < 2);
}

// ---------------------------------------------------------------- events, doubts, shadow

function takeHappenings(list) {
  happenings.unshift(...list.reverse());
  const since = Date.now() / 1000 - EVENT_S;
  while (happenings.length > EVENTS_KEPT || (happenings.length && happenings[happenings.length - 1].time < since)) happenings.pop();
  showHappenings();
}

function showHappenings() {
  const list = $("events");
  const shown = happenings.slice(0, EVENTS);
  list.replaceChildren(...shown.map(happening));
  if (!shown.length) list.append(make("li", "muted none", "Nothing has happened."));
  show($("events-count"), happenings.length ? format.count(happenings.length) : "");
}

function happening({ time, service, backend, kind, text }) {
  const at = make("time", "", format.timeOfDay(time));
  at.title = format.dateAndTime(time);
  const subject = make("b", "", backend || service || "the proxy");
  const where = backend && pool.services.length > 1 ? [make("span", "muted", ` ${service}`)] : [];
  const pill = make("span", "pill", kind);
  pill.dataset.state = kind;
  return make("li", "", at, make("div", "", subject, ...where, pill, make("p", "", text)));
}

function showDoubts({ doubts }) {
  $("doubts").hidden = $("doubts-link").hidden = !doubts.length;
  show($("doubts-link"), `${doubts.length} doubt${doubts.length === 1 ? "" : "s"}`);
  const list = $("doubts").querySelector("ul");
  list.replaceChildren(
    ...doubts.map(({ since, service, backend, text }) => {
      const subject = [backend, service].filter(Boolean).join(" of ");
      return make("li", "", make("b", "", subject || "the proxy"), ` ${text}`, make("span", "muted", ` since ${format.timeOfDay(since)}`));
    }),
  );
}

async function quietly(path, use) {
  try {
    use(await get(path));
  } catch {
    // shown as it was; the state of the stream says what is wrong
  }
}

function askSlowly() {
  quietly("api/doubts", showDoubts);
}

// ---------------------------------------------------------------- the stream

const connection = $("connection");
connection.replaceChildren();

function said(text, state) {
  show(connection, text);
  attribute(connection, "data-state", state);
  document.body.classList.toggle("stale", state !== "live");
}

async function opened() {
  pool.opened();
  const after = happenings.length ? happenings[0].id : 0;
  await quietly(`api/events?after=${after}`, ({ events, last }) => {
    if (last < after) happenings.length = 0; // another process
    takeHappenings(events.filter(({ id }) => !happenings.length || id > happenings[0].id));
  });
  askSlowly();
}

function took(name, value) {
  if (name === "happening") {
    if (!happenings.length || value.id > happenings[0].id) takeHappenings([value]);
    if (value.kind === "doubt") askSlowly();
  } else if (name === "status") {
    const first = pool.complete;
    pool.take(value);
    pool.sample();
    said("Live", "live");
    if (first) quietly("api/recent", (recent) => (pool.restore(recent), about(recent.process), paint()));
    paint();
  }
}

let asking = false;
async function closed(error, seconds) {
  const locked = error instanceof Refused && error.status === 401;
  said(locked ? "Locked: the token is needed" : `Not connected, next try in ${Math.round(seconds)} s`, locked ? "locked" : "lost");
  if (locked && !asking) {
    asking = true;
    if (await askForToken("This page needs the token.")) again();
    asking = false;
  }
}

function about(process) {
  if (!process) return;
  const up = format.duration(Date.now() / 1000 - process.started);
  show($("about"), `${process.version} · up ${up} · pid ${process.pid}`);
  $("about").title = `started ${format.dateAndTime(process.started)}`;
  show($("tile-sessions-max"), `of ${format.count(process.sessions_max)}`);
}

let painting = 0;
/** Show what is known, when the browser next draws: never while the page is hidden. */
function paint() {
  painting ||= requestAnimationFrame(() => {
    painting = 0;
    const began = performance.now();
    showServiceFilter();
    showServices();
    showTotals();
    table.update();
    if (details.entry) {
      if (pool.entries.get(details.entry.key) !== details.entry) details.close();
      else details.update();
    }
    document.documentElement.dataset.painted = (performance.now() - began).toFixed(1);
  });
}

// ---------------------------------------------------------------- theme and keyboard

const THEMES = ["auto", "light", "dark"];

function useTheme(theme) {
  attribute(document.documentElement, "data-theme", theme === "auto" ? null : theme);
  show($("theme"), `Theme: ${theme}`);
}

function storedTheme() {
  const theme = localStorage.getItem(THEME);
  return THEMES.includes(theme) ? theme : "auto";
}

useTheme(storedTheme());
$("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(storedTheme()) + 1) % THEMES.length];
  localStorage.setItem(THEME, theme);
  useTheme(theme);
});
$("token").addEventListener("click", async () => (await askForToken()) && again());
$("keys").addEventListener("click", showKeys);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) {
    if (event.key === "Escape" && event.target.id === "filter") table.focus(table.shown[0]);
    return;
  }
  if (event.key === "/") $("filter").focus();
  else if (event.key === "?") showKeys();
  else if (event.key === "Escape" && details.entry) details.close();
  else return;
  event.preventDefault();
});

setInterval(askSlowly, SLOW_MS);
setInterval(() => {
  for (const entry of pool.entries.values()) if (entry.marks.length > 1) entry.dirty = true; // rates fall by themselves
  if (pool.entries.size) paint();
}, 2000);
const again = follow("api/stream", { opened, event: took, closed });
