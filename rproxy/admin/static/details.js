// The panel about one back-end: why it is as it is, what can be done, its figures, choices, sessions and events.

import { act, killSession } from "./actions.js";
import * as charts from "./charts.js";
import { get } from "./connection.js";
import { $, attribute, button, make, show } from "./dom.js";
import * as format from "./format.js";

const REFRESH_MS = 3000;
const CHOICES = 20;
const CANDIDATES = 12; // shown of each choice
const SESSIONS = 10;

const FIGURES = [
  ["Sessions", ({ row }) => format.count(row.connections) + (row.max_connections ? ` of ${format.count(row.max_connections)}` : "")],
  ["New/s", (entry) => format.rate(entry.rate())],
  ["Total", ({ row }) => format.count(row.total)],
  ["To clients", ({ row }) => format.bytes(row.bytes_down)],
  ["From clients", ({ row }) => format.bytes(row.bytes_up)],
  ["TCP on host", ({ row }) => format.count(row.tcp)],
  ["CPU", ({ row }) => unit(row.cpu, "%")],
  ["Memory", ({ row }) => unit(row.memory, "%")],
  ["Queue", ({ row }) => unit(row.load, "%")],
  ["RTT now", ({ row }) => unit(format.milliseconds(row.rtt_ms), "ms")],
  ["RTT smoothed", ({ row }) => unit(format.milliseconds(row.srtt_ms), "ms")],
  ["Loss", ({ row }) => unit(format.percentage(row.loss), "%")],
  ["Checked by", ({ row }) => row.check || "–"],
  ["Weight", ({ row }) => String(row.weight) + (row.share < 1 ? ` × ${row.share}` : "")],
  ["In this state", (entry) => format.duration(entry.age("since"))],
  ["Went down", ({ row }) => ["never", "once"][row.downs] || `${format.count(row.downs)} times`],
  ["Time down", (entry) => format.duration(entry.downFor())],
  ["Failed connects", ({ row }) => format.count(row.connect_errors)],
  ["Redispatched", ({ row }) => format.count(row.redispatched)],
  ["Failed checks", ({ row }) => format.count(row.checks_failed)],
  ["Last report", (entry) => ago(entry.age("report_age"))],
  ["Last answer", (entry) => ago(entry.age("last_seen_s"))],
];

const ago = (seconds) => (seconds === null ? "–" : `${format.duration(seconds)} ago`);
const termText = ([name, value]) => `${name} ${format.significant(value)}`;
const unit = (value, name) => (value == null || value === "–" ? "–" : `${value} ${name}`);

function section(title, ...content) {
  return make("section", "", make("h3", "", title), ...content);
}

export class Details {
  /**
   * `events()` returns the happenings that are known, the newest first, `scaleOf(service)` the largest value of each
   * term, and `selected(entry)` is told which entry is shown, null for none.
   */
  constructor(events, scaleOf, selected) {
    this.panel = $("details");
    this.events = events;
    this.scaleOf = scaleOf;
    this.selected = selected;
    this.entry = null;
    this.back = null; // where the focus was
    this.panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  open(entry) {
    if (!this.entry) this.back = document.activeElement;
    this.entry = entry;
    this.selected(entry);
    this.build();
    this.panel.hidden = false;
    document.body.classList.add("has-details");
    this.update();
    this.refresh();
    this.panel.focus({ preventScroll: true });
    this.panel.scrollTop = 0;
  }

  close() {
    if (!this.entry) return;
    this.entry = null;
    this.selected(null);
    clearTimeout(this.timer);
    this.panel.hidden = true;
    document.body.classList.remove("has-details");
    this.panel.replaceChildren();
    this.back?.focus?.();
  }

  focusWeight() {
    this.weight.focus();
    this.weight.select();
  }

  build() {
    const { entry } = this;
    this.pill = make("span", "pill", "");
    const close = button("×", () => this.close(), "close");
    close.setAttribute("aria-label", "Close");
    const title = make("h2", "", entry.name);
    title.id = "details-title";
    this.why = make("p", "why", "");
    this.panel.replaceChildren(
      make("header", "", make("div", "", title, make("span", "muted", entry.row.service)), this.pill, close),
      this.why,
      this.makeActions(),
      this.makeCharts(),
      this.makeFigures(),
      (this.termsSection = section("Score", (this.terms = make("dl", "terms")))),
      (this.choicesSection = section("Last choices", (this.choices = make("div", "choices muted", "…")))),
      (this.sessionsSection = section("Longest sessions", (this.sessions = make("div", "sessions muted", "…")))),
      section("Events", (this.happened = make("ol", "happenings"))),
    );
  }

  makeActions() {
    const { entry } = this;
    const done = async (verb, value) => {
      await act(entry, verb, value);
      this.refresh();
    };
    this.buttons = {};
    for (const [verb, text, title] of [
      ["ready", "Ready", "Clients again"],
      ["drain", "Drain", "No new sessions; those that there are go on"],
      ["maint", "Maintenance", "As drain, and it does not count as down"],
    ]) {
      this.buttons[verb] = button(text, () => done(verb));
      this.buttons[verb].title = title;
    }
    const states = make("div", "segments", ...Object.values(this.buttons));
    states.setAttribute("role", "group");
    states.setAttribute("aria-label", "What it gets");
    this.weight = this.numberField("weight-field", 1, 65535, entry.row.weight);
    const shed = this.numberField("shed-field", 0, 10000, 5);
    shed.step = "any";
    return make(
      "div",
      "actions",
      states,
      make("div", "action", this.label("weight-field", "Weight"), this.weight,
        button("Set", () => done("weight", this.weight.value)),
        button("Default", () => done("weight"))),
      make("div", "action", this.label("shed-field", "Shed"), shed, make("span", "muted", "/s"),
        button("Start", () => done("shed", shed.value)),
        button("Stop", () => done("shed", 0)),
        button("Kill all", () => done("kill"), "danger")),
    );
  }

  label(id, text) {
    const label = make("label", "", text);
    label.htmlFor = id;
    return label;
  }

  numberField(id, min, max, value) {
    const field = make("input");
    Object.assign(field, { id, type: "number", min, max, value });
    return field;
  }

  makeCharts() {
    this.charts = ["sessions", "new", "cpu"].map((name) => {
      const title = { sessions: "Sessions", new: "New in 10 s", cpu: "CPU %" }[name];
      const chart = charts.sparkline(`${title}, last ten minutes`);
      const now = make("b", "", "");
      const most = make("small", "muted", "");
      return { name, chart, now, most, box: make("div", "chart", make("span", "muted", title), now, chart, most) };
    });
    return make("div", "charts", ...this.charts.map(({ box }) => box));
  }

  makeFigures() {
    const list = make("dl", "figures");
    this.figures = FIGURES.map(([name, text]) => {
      const value = make("dd", "", "");
      list.append(make("div", "", make("dt", "", name), value));
      return [value, text];
    });
    return list;
  }

  /** The entry has changed. */
  update() {
    const { entry } = this;
    if (!entry) return;
    const { row } = entry;
    show(this.pill, row.full ? "full" : row.state);
    attribute(this.pill, "data-state", row.full ? "full" : row.state);
    for (const [verb, pressed] of Object.entries(this.buttons)) {
      attribute(pressed, "aria-pressed", String((row.administration || "ready") === verb));
    }
    for (const [value, text] of this.figures) show(value, text(entry));
    for (const { name, chart, now, most } of this.charts) {
      const series = entry.series[name];
      const present = name === "sessions" ? row.connections : series[series.length - 1];
      const top = Math.max(0, ...[...series, present].map((value) => value ?? 0));
      charts.draw(chart, series, name === "cpu" ? 100 : 4);
      show(now, format.count(present));
      show(most, `most ${format.count(top)}`);
    }
    this.updateTerms();
    this.updateEvents();
  }

  updateTerms() {
    const { row } = this.entry;
    const scale = this.scaleOf(row.service);
    const terms = [["score", row.score], ...Object.entries(row.terms || {})];
    if (this.terms.childElementCount !== terms.length) {
      this.terms.replaceChildren(...terms.map(() => make("div", "", make("dt", "", ""), make("dd", "", make("span", "value", ""), charts.bar()))));
    }
    terms.forEach(([name, value], number) => {
      const [term, cell] = this.terms.childNodes[number].childNodes;
      show(term, name);
      show(cell.firstChild, format.significant(value));
      charts.fill(cell.lastChild, scale[name] ? Math.abs(value || 0) / scale[name] : 0);
      attribute(cell.lastChild, "class", name === "score" ? "bar none" : "bar");
    });
  }

  updateEvents() {
    const mine = this.events().filter(({ service, backend }) => service === this.entry.row.service && backend === this.entry.name);
    const newest = mine.slice(0, 20);
    if (this.eventsShown === newest[0]?.id && this.eventsOf === this.entry.key) return;
    this.eventsShown = newest[0]?.id;
    this.eventsOf = this.entry.key;
    this.happened.replaceChildren(
      ...(newest.length ? newest.map(({ time, text }) => make("li", "", make("time", "", format.timeOfDay(time)), text)) : ["None in the last hour."]),
    );
  }

  /** Ask for what the stream does not tell, now and every few seconds. */
  async refresh() {
    clearTimeout(this.timer);
    const { entry } = this;
    const { service } = entry.row;
    const query = `service=${encodeURIComponent(service)}&backend=${encodeURIComponent(entry.name)}`;
    await Promise.all([
      this.fill(entry, `api/explain?${query}`, ({ explanations }) => show(this.why, explanations[0]?.text || "")),
      this.fill(entry, `api/choices?${query}&limit=${CHOICES}`, (document) => this.showChoices(document)),
      this.fill(entry, `api/sessions?${query}&limit=${SESSIONS}`, (document) => this.showSessions(document)),
    ]);
    if (this.entry === entry) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.entry === entry && this.refresh(), REFRESH_MS);
    }
  }

  async fill(entry, path, use) {
    try {
      const document = await get(path);
      if (this.entry === entry) use(document);
    } catch {
      // shown as it was; the connection's state says what is wrong
    }
  }

  showChoices({ choices }) {
    if (this.choices.querySelector("details[open]")) return; // somebody reads it
    this.choices.replaceChildren(...(choices.length ? choices.map((choice) => this.choice(choice)) : ["None yet."]));
  }

  choice(choice) {
    const won = choice.chosen === this.entry.name;
    const summary = make(
      "summary",
      "",
      make("time", "", format.timeOfDay(choice.time)),
      make("span", won ? "won" : "lost", won ? "chosen" : choice.chosen || "nobody"),
      make("span", "reason", choice.why),
    );
    const ranked = choice.candidates.toSorted((one, other) => (one.value ?? Infinity) - (other.value ?? Infinity));
    const list = make("table", "candidates", make("caption", "visually-hidden", "Candidates"));
    list.append(
      make("tr", "", ...["Candidate", "value", "report"].map((name, number) => make("th", number ? "n" : "", name))),
      ...ranked.slice(0, CANDIDATES).map((candidate) => this.candidate(candidate, choice)),
    );
    const { tried, full, ineligible, others } = choice.left_out;
    const left = [
      [others + Math.max(0, ranked.length - CANDIDATES), "more"],
      [full, "full"],
      [ineligible, "not up, or drained"],
      [tried.length, "tried before"],
    ].filter(([number]) => number);
    const client = `client ${choice.client || "unknown"}, session ${choice.session}, rule ${choice.rule}`;
    const rest = left.map(([number, what]) => `${format.count(number)} ${what}`).join(", ");
    return make("details", "", summary, list, make("p", "muted", rest ? `${client}; ${rest}` : client));
  }

  candidate({ backend, value, terms, report_age: age }, choice) {
    const cells = [
      make("td", "", backend, make("small", "", Object.entries(terms).map(termText).join(", "))),
      make("td", "n", format.significant(value)),
      make("td", "n muted", age == null ? "" : format.duration(age)),
    ];
    return make("tr", backend === choice.chosen ? "winner" : "", ...cells);
  }

  showSessions({ sessions, total }) {
    const rows = sessions.map((session) => {
      const kill = button("Kill", async () => {
        await killSession(session);
        this.refresh();
      }, "small");
      kill.setAttribute("aria-label", `Kill session ${session.id} of ${session.client}`);
      return make("tr", "", make("td", "", session.client || "–"), make("td", "n", format.duration(session.age)), make("td", "n", `↓ ${format.bytes(session.down)}`), make("td", "n", `↑ ${format.bytes(session.up)}`), make("td", "n", kill));
    });
    if (this.sessions.contains(document.activeElement)) return;
    if (!rows.length) return this.sessions.replaceChildren("None now.");
    const list = make("table", "", make("caption", "visually-hidden", "Sessions"), ...rows);
    const more = total > rows.length ? [make("p", "", `${format.count(total - rows.length)} more: rproxy sessions --backend ${this.entry.name}`)] : [];
    return this.sessions.replaceChildren(list, ...more);
  }
}
