// The table of services, and the totals over all of them.

import * as charts from "./charts.js";
import { $, attribute, make, show } from "./dom.js";
import * as format from "./format.js";

const FAILED = ["backend-reset", "backend-down", "no-backend", "unreachable", "queue-full", "queue-timeout"];

const ended = (service) => Object.values(service.counters?.sessions || {}).reduce((sum, number) => sum + number, 0);
const failed = (service) => FAILED.reduce((sum, name) => sum + (service.counters?.sessions?.[name] || 0), 0);
function stateOf(service) {
  if (service.leaving) return ["leaving", "draining"];
  if (!service.eligible) return [service.full ? "full" : "no back-end", service.full ? "suspect" : "down"];
  return service.panic ? ["panic", "suspect"] : ["serving", "up"];
}

/** The table of services. */
export function showServices(pool) {
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
    charts.draw(cells[4].firstChild, pool.seriesOf(service.name).sessions, 4);
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
    const endings = FAILED.filter((name) => service.counters?.sessions?.[name]);
    const all = Object.entries({ ...service.counters?.sessions, redispatched: service.counters?.redispatches });
    attribute(cells[7], "title", all.filter(([, number]) => number).map(([name, number]) => `${name}: ${number}`).join("\n"));
    attribute(cells[8], "title", endings.map((name) => `${name}: ${service.counters.sessions[name]}`).join("\n"));
  });
}

const tileCharts = ["sessions", "rate"].map((name) => {
  const chart = charts.sparkline();
  $(`tile-${name}`).closest("div").append(chart);
  return chart;
});

/** The totals, at the top. */
export function showTotals(pool) {
  const sum = (value) => pool.services.reduce((total, service) => total + value(service), 0);
  charts.draw(tileCharts[0], pool.totals("sessions"), 4);
  charts.draw(tileCharts[1], pool.totals("new"), 4);
  const rate = [...pool.rates().values()].reduce((total, each) => total + each, 0);
  const waiting = sum(({ waiting }) => waiting);
  const [all, bad] = [sum(ended), sum(failed)];
  show($("tile-sessions"), format.count(sum(({ sessions }) => sessions)));
  show($("tile-rate"), format.rate(rate));
  show($("tile-eligible"), format.count(sum(({ eligible }) => eligible)));
  show($("tile-known"), `of ${format.count(sum(({ known }) => known))}`);
  show($("tile-waiting"), format.count(waiting));
  const longest = Math.max(0, ...pool.services.map((service) => service.waiting_s || 0));
  show($("tile-waiting-s"), waiting ? `up to ${format.duration(longest)}` : "");
  show($("tile-down"), format.bytes(sum(({ counters }) => counters?.bytes?.down || 0)));
  show($("tile-failed"), format.count(bad));
  show($("tile-failed-share"), `of ${format.count(all)}`);
  const lacks = pool.services.some(({ eligible }) => !eligible);
  attribute($("tile-eligible").closest("div"), "data-state", lacks ? "down" : null);
  document.title = `${sum(({ eligible }) => eligible)}/${sum(({ known }) => known)} rproxy`;
}

/** The choice of services, beside the filter of back-ends. */
export function showServiceFilter(pool) {
  const names = pool.services.map(({ name }) => name);
  const select = $("service-filter");
  if (select.options.length !== names.length + 1) {
    select.replaceChildren(select.options[0], ...names.map((name) => new Option(name, name)));
  }
  document.body.classList.toggle("one-service", names.length < 2);
}
