// What operators do to back-ends and sessions, with the token where it is asked for.

import { backendPath, post, Refused, token } from "./connection.js";
import { $, notify } from "./dom.js";

const UNDONE = { drain: "ready", maint: "ready" };

/** Open a dialog; resolves to whether it was confirmed. */
function ask(dialog) {
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    let confirmed = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      confirmed = true;
      dialog.close();
    };
    dialog.onclick = (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    };
    dialog.onclose = () => resolve(confirmed);
    dialog.showModal();
  });
}

/** Have the operator type a token; resolves to whether there is a new one. */
export async function askForToken(reason = "") {
  const field = $("token-field");
  field.value = "";
  $("token-reason").textContent = reason || (token.get() ? "A token is in use." : "");
  $("token-forget").hidden = !token.get();
  $("token-forget").onclick = () => {
    token.set("");
    $("token-dialog").close();
    notify("The token is forgotten.");
  };
  const confirmed = await ask($("token-dialog"));
  const typed = field.value.trim();
  field.value = "";
  if (!confirmed || !typed) return false;
  token.set(typed);
  return true;
}

function confirm(title, text, yes) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  return ask($("confirm-dialog"));
}

export const showKeys = () => ask($("keys-dialog"));

/** Post, ask for the token if that is what is missing, and say what was done. Resolves to the answer, or null. */
async function change(path, undo = null) {
  for (;;) {
    try {
      const answer = await post(path);
      notify(answer.done, { undo });
      return answer;
    } catch (error) {
      const asked = error instanceof Refused && error.status === 401;
      if (asked && (await askForToken(token.get() ? "The proxy does not take this token." : "Changes need the token."))) continue;
      notify(asked ? "Nothing was changed: that needs the token." : `Nothing was changed: ${error.message}`, { failed: true });
      return null;
    }
  }
}

/** Do `verb` to a back-end: drain, maint, ready, weight, shed or kill. Resolves to the answer, or null. */
export async function act(entry, verb, value = null) {
  const { row, name } = entry;
  if (verb === "kill") {
    const sessions = row.connections === 1 ? "One session is" : `${row.connections} sessions are`;
    const text = `${sessions} reset on both sides at once.`;
    if (!(await confirm(`End all sessions on ${name}?`, text, "End them"))) return null;
  }
  const query = value === null ? "" : `?${verb === "shed" ? "rate" : "value"}=${encodeURIComponent(value)}`;
  const undone = UNDONE[verb];
  const undo = undone ? () => change(backendPath(row, name, undone)) : null;
  return change(backendPath(row, name, verb, query), undo);
}

export async function killSession(session) {
  if (!(await confirm(`End session ${session.id}?`, `That of ${session.client} is reset on both sides at once.`, "End it"))) {
    return null;
  }
  return change(`api/sessions/${encodeURIComponent(session.id)}/kill`);
}
