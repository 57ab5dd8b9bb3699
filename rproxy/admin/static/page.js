// The live page: follows the stream, and shows services, back-ends, events, doubts and the shadow policy.

import { act, askForToken, showKeys } from "./actions.js";
import { follow, get, Refused, token } from "./connection.js";
import { Details } from "./details.js";
import { $, attribute, show } from "./dom.js";
import { Events } from "./events.js";
import { showDoubts, showShadow } from "./findings.js";
import * as format from "./format.js";
import { Pool } from "./pool.js";
import { showServiceFilter, showServices, showTotals } from "./services.js";
import { Table } from "./table.js";

const SLOW_MS = 10000; // how often doubts and the shadow policy are asked for
const DOUBTING = ["doubt", "cleared"]; // events after which the doubts are others
const THEME = "rproxy-theme";

document.documentElement.classList.add("live");
const pool = new Pool();
const events = new Events(pool);
const table = new Table(pool, {
  open: (entry) => details.open(entry),
  act: (entry, verb) => {
    if (verb !== "weight") return act(entry, verb);
    details.open(entry);
    return details.focusWeight();
  },
});
const details = new Details(
  () => events.known,
  (service) => table.scales.get(service) || {},
  (entry) => table.select(entry),
);

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
  events.begin();
  await quietly("api/events", ({ events: all, last }) => events.replace(all, last));
  askSlowly();
}

async function quietly(path, use) {
  try {
    use(await get(path));
  } catch {
    // shown as it was; the state of the stream says what is wrong
  }
}

let compares = true; // whether there is a shadow policy, as far as is known
let looks = 0;
function askSlowly() {
  if (document.hidden) return;
  quietly("api/doubts", showDoubts);
  if (compares || looks % 6 === 0) {
    quietly("api/shadow", (document) => {
      compares = document.services.length > 0;
      showShadow(document);
    });
  }
  looks += 1;
}

function took(name, value) {
  if (name === "happening") {
    events.take(value);
    if (DOUBTING.includes(value.kind)) askSlowly();
  } else if (name === "status") {
    const first = pool.complete;
    pool.take(value);
    pool.sample();
    said("Live", "live");
    attribute(connection, "title", null);
    if (first) quietly("api/recent", (recent) => (pool.restore(recent), (process = recent.process), about(), paint()));
    paint();
  }
}

let asked = false; // once is enough: there is a button
async function closed(error, seconds) {
  const locked = error instanceof Refused && error.status === 401;
  said(locked ? "Locked: the token is needed" : `Not connected, next try in ${Math.round(seconds)} s`, locked ? "locked" : "lost");
  attribute(connection, "title", error?.message);
  if (!locked || asked) return;
  asked = true;
  if (await askForToken(token.get() ? "The proxy does not take this token." : "Reading needs the token.")) {
    asked = false;
    again();
  }
}

let process = null; // the proxy's
function about() {
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
    showServiceFilter(pool);
    showServices(pool);
    showTotals(pool);
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
  else if (event.key === "ArrowDown" && event.target === document.body) table.focus(table.shown[0]);
  else if (event.key === "Escape" && details.entry) details.close();
  else return;
  event.preventDefault();
});

setInterval(askSlowly, SLOW_MS);
setInterval(() => {
  for (const entry of pool.entries.values()) if (entry.marks.length > 1) entry.dirty = true; // rates fall by themselves
  if (document.body.classList.contains("stale")) return;
  about();
  if (pool.entries.size) paint();
}, 1000);
const { again, pause } = follow("api/stream", { opened, event: took, closed });

// A hidden page is not kept up to date for long: browsers open only six connections to a server for all of its pages.
const HIDDEN_MS = 60000;
let hiding = 0;
let isPaused = false;

function rest() {
  isPaused = true;
  document.title = "rproxy";
  pause();
}

function resume() {
  clearTimeout(hiding);
  if (isPaused) again();
  isPaused = false;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiding = setTimeout(rest, HIDDEN_MS);
  else resume();
});
addEventListener("pagehide", rest);
addEventListener("pageshow", resume);
