// The audit as it is written: an EventSource that a ticket opens.
//
// An EventSource would come back by itself with the address it has, and the
// ticket in that is spent. So this closes it at the first error, gets another
// ticket, and says which line it saw last.

import { ticketed, verdict } from "/ticketgate.js";
import { $, el, fill } from "./dom.js";
import { end, isOver, session } from "./api.js";

const keep = 150; // lines shown
const firstWait = 500, longestWait = 15_000; // ms between attempts
const silence = 40_000; // ms; the server says something every 15 s

const listeners = new Set();
const seen = [];
let arrived = 0, last = "", wait = firstWait, source, watchdog, timer;

// onLine calls fn with every line that arrives.
export const onLine = (fn) => listeners.add(fn);

// now marks a place in the stream, for until.
export const now = () => arrived;

// until waits for a line that came after a place and that matches.
export function until(since, match, ms = 4000) {
  const found = seen.find((s) => s.n > since && match(s.line));
  if (found) return Promise.resolve(found.line);
  return new Promise((resolve) => {
    const done = (line) => {
      listeners.delete(look);
      clearTimeout(limit);
      resolve(line);
    };
    const look = (line) => match(line) && done(line);
    const limit = setTimeout(done, ms, null);
    listeners.add(look);
  });
}

export async function start() {
  timer = undefined;
  if (isOver()) return;
  try {
    open(await ticketed(`/events?after=${encodeURIComponent(last)}`, { signIn() {} }));
  } catch (refusal) {
    if (verdict(refusal) === "sign-in") end({ code: 401, reason: refusal.reason });
    else again();
  }
}

function open(url) {
  if (isOver()) return;
  source = new EventSource(url);
  source.addEventListener("beat", () => {
    wait = firstWait;
    show("open", "live");
    watch();
  });
  source.onmessage = ({ data, lastEventId }) => {
    last = lastEventId;
    watch();
    arrive(data);
  };
  source.onerror = again;
}

function watch() {
  clearTimeout(watchdog);
  watchdog = setTimeout(again, silence);
}

function again() {
  source?.close();
  clearTimeout(watchdog);
  if (isOver() || timer) return;
  show("pending", "coming back");
  timer = setTimeout(start, wait);
  wait = Math.min(wait * 2, longestWait);
}

// A page that is about to end its own session does not wait to be cut off.
session.addEventListener("leaving", () => source?.close());
session.addEventListener("staying", again);

session.addEventListener("ended", () => {
  source?.close();
  clearTimeout(watchdog);
  clearTimeout(timer);
  show("refused", "ended");
});

function show(state, text) {
  const pill = $("log-state");
  pill.dataset.state = state;
  fill(pill, text);
}

function arrive(data) {
  const line = JSON.parse(data);
  seen.push({ n: ++arrived, line });
  if (seen.length > keep) seen.shift();
  const list = $("lines");
  list.prepend(row(line, data));
  while (list.childElementCount > keep) list.lastElementChild.remove();
  for (const fn of [...listeners]) fn(line);
}

const good = new Set(["login_success", "ws_opened"]);
const bad = new Set(["login_failure", "session_verify_failure", "ws_ticket_rejected", "ws_upgrade_refused", "revoke"]);

function row(line, data) {
  const at = new Date(line.ts);
  const fresh = Date.now() - at < 2000;
  const kind = good.has(line.event) ? "ok" : bad.has(line.event) || line.close_code >= 4000 ? "no" : "";
  const said = [line.reason, line.close_code].filter(Boolean).join(" ");
  return el("li", { className: "line", data: fresh ? { kind, new: "" } : { kind } },
    el("p", {},
      el("time", { dateTime: line.ts }, at.toLocaleTimeString("en-GB")),
      el("b", {}, line.event),
      said ? el("span", {}, said) : null),
    el("p", { className: "raw" }, ...breakable(data)));
}

// breakable lets a long line break where its fields end.
const breakable = (data) => data.split(/(?<=,)(?=")/).flatMap((field) => [field, el("wbr")]);
