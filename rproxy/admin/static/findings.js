// What `--shadow` finds, and what looks wrong.

import { $, make, show } from "./dom.js";
import * as format from "./format.js";

const DOUBTS = 20; // shown

/** Show the document of `/api/doubts`. */
export function showDoubts({ doubts }) {
  $("doubts").hidden = $("doubts-link").hidden = !doubts.length;
  show($("doubts-link"), `${doubts.length} doubt${doubts.length === 1 ? "" : "s"}`);
  const list = $("doubts").querySelector("ul");
  const rest = doubts.length - DOUBTS;
  list.replaceChildren(
    ...doubts.slice(0, DOUBTS).map(({ since, service, backend, text }) => {
      const subject = [backend, service].filter(Boolean).join(" of ");
      return make("li", "", make("b", "", subject || "the proxy"), ` ${text}`, make("span", "muted", ` since ${format.timeOfDay(since)}`));
    }),
    ...(rest > 0 ? [make("li", "muted", `${format.count(rest)} more: rproxy doubts`)] : []),
  );
}

function share(part, all) {
  return all ? `${format.percentage(part / all)} %` : "none";
}

/** Show the document of `/api/shadow`. */
export function showShadow({ services }) {
  $("shadow").hidden = !services.length;
  $("shadow-content").replaceChildren(...services.flatMap(comparison));
}

function comparison({ service, choices, differed, minute, acting, shadow }) {
  const often = `would have chosen otherwise for ${share(differed, choices)} of ${format.count(choices)} clients`;
  const text = make("p", "", make("b", "", service), `: ${shadow.policy} ${often} (${share(minute.differed, minute.choices)} in the last minute).`);
  const heads = ["Last minute", acting.policy, shadow.policy];
  const rows = [
    ["Sessions, most", (each) => each.sessions.minute.max],
    ["Sessions, deviation", (each) => each.sessions.minute.deviation],
    ["New ones, deviation", (each) => each.choices.minute.deviation],
  ];
  const line = (tag, texts) => make("tr", "", ...texts.map((each, number) => make(tag, number ? "n" : "", each)));
  const table = make("table", "comparison", make("caption", "visually-hidden", `Imbalance of ${service}`));
  table.append(line("th", heads), ...rows.map(([name, of]) => line("td", [name, ...[acting, shadow].map((each) => format.significant(of(each)))])));
  return [text, table];
}
