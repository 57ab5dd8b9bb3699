// The events of the last hour.

import { $, make, show } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 200;
const KEPT = 2000;
const KEPT_S = 3600;

export class Events {
  constructor(pool) {
    this.pool = pool;
    this.known = []; // the newest first
    this.late = []; // those that came since `begin`
  }

  /** A connection begins: all of them are asked for, while new ones may come already. */
  begin() {
    this.late = [];
  }

  /** All of them, the oldest first, as far as the number `last`. */
  replace(events, last) {
    this.known = this.late.filter(({ id }) => id > last).concat(events.toReversed());
    $("events").replaceChildren();
    this.show(this.known);
  }

  /** A new one. */
  take(event) {
    this.late.unshift(event);
    this.known.unshift(event);
    this.show([event]);
  }

  /** Put the elements of the `added` before those that are shown already, and drop the oldest. */
  show(added) {
    const since = Date.now() / 1000 - KEPT_S;
    this.late.length = Math.min(this.late.length, KEPT);
    while (this.known.length > KEPT || this.known.at(-1)?.time < since) this.known.pop();
    const shown = Math.min(this.known.length, SHOWN);
    const list = $("events");
    list.querySelector(".none")?.remove();
    list.prepend(...added.slice(0, SHOWN).map((event) => this.element(event)));
    while (list.childElementCount > shown) list.lastElementChild.remove();
    if (!shown) list.append(make("li", "muted none", "Nothing has happened."));
    show($("events-count"), this.known.length ? format.count(this.known.length) : "");
  }

  element({ time, service, backend, kind, text }) {
    const at = make("time", "", format.timeOfDay(time));
    at.title = format.dateAndTime(time);
    const subject = make("b", "", backend || service || "the proxy");
    const where = backend && this.pool.services.length > 1 ? [make("span", "muted", ` ${service}`)] : [];
    const pill = make("span", "pill", kind);
    pill.dataset.state = kind;
    return make("li", "", at, make("div", "", subject, ...where, pill, make("p", "", text)));
  }
}
